"""Checkpoints: formats, strict loading, whatever can be wrong with a file, names, downloads."""

import hashlib
import http.server
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.scripts import EXPERIMENTS, ROOT
from PIL import Image

from dme.common.errors import InputError
from dme.common.provenance import provenance
from dme.nets import download as downloading
from dme.nets import zoo as named
from dme.nets.checkpoint import save_model
from dme.nets.download import download
from dme.nets.loading import convert_openmmlab, load_model, load_openmmlab
from dme.nets.segmenter import PREPROCESS, build_model, normalise

CHECKPOINT = next((ROOT / "tests" / "golden").glob("pspnet_unet_s5-d16_w8*.pth"))
NAMES = [
    f"hrf-{head}{loss}-openmmlab"
    for loss in ("", "-ce-dice")
    for head in ("psp", "fcn", "deeplabv3")
]


def small_model(head="psp", width=2, **arguments):
    """A network none of whose tensors is at its initial value of 0 or 1."""
    model = build_model(head=head, width=width, **arguments)
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_(
                torch.rand(value.shape, generator=generator) + 0.5
                if "var" in name
                else value + 0.1
            )
    return model.eval()


def some_input(channels=3):
    return torch.randn(2, channels, 48, 64, generator=torch.Generator().manual_seed(1))


def assert_same_network(a, b):
    assert a.arch == b.arch
    assert a.preprocess == b.preprocess
    assert list(a.classes) == list(b.classes)
    for name, value in a.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, b.state_dict()[name]), name


def openmmlab(tmp_path, change=None, legacy=False, **content):
    """A copy of the golden checkpoint with a changed state_dict or changed content."""
    whole = torch.load(CHECKPOINT, weights_only=True)
    if change:
        change(whole["state_dict"])
    path = tmp_path / "changed.pth"
    torch.save(whole | content, path, _use_new_zipfile_serialization=not legacy)
    return path


def with_its_hash(path):
    """The file renamed as OpenMMLab names its files."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_name(f"named-{digest[:8]}.pth"))


def ours(tmp_path, **changes):
    """A file of ours with changed entries; None removes one."""
    save_model(small_model(), tmp_path / "ours.pth")
    content = torch.load(tmp_path / "ours.pth", weights_only=True) | changes
    torch.save(
        {key: value for key, value in content.items() if value is not None}, tmp_path / "ours.pth"
    )
    return tmp_path / "ours.pth"


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# OpenMMLab files


def test_convert_reads_the_architecture_and_the_class_names():
    model = convert_openmmlab(CHECKPOINT)
    assert model.arch == build_model(head="psp", width=8).arch
    assert model.classes == ["background", "vessel"]
    assert model.preprocess == PREPROCESS
    assert model.weights_extra["source_sha256"].startswith("ddfb472e")
    state = torch.load(CHECKPOINT, weights_only=True)["state_dict"]
    assert torch.equal(
        model.backbone.up[3].bn.running_var,
        state["backbone.decoder.3.upsample.interp_upsample.1.bn.running_var"],
    )
    assert torch.equal(
        model.head.pools[2].conv.weight, state["decode_head.psp_modules.2.1.conv.weight"]
    )


def test_load_takes_old_archives_plain_state_dicts_and_training_leftovers(tmp_path):
    reference = convert_openmmlab(CHECKPOINT)

    def drop_counters(state):
        for name in [name for name in state if name.endswith("num_batches_tracked")]:
            del state[name]

    torch.save(torch.load(CHECKPOINT, weights_only=True)["state_dict"], tmp_path / "plain.pth")
    for path in (
        tmp_path / "plain.pth",
        with_its_hash(openmmlab(tmp_path, legacy=True)),
        openmmlab(
            tmp_path, change=drop_counters, optimizer={"state": {}, "param_groups": [{"lr": 0.01}]}
        ),
    ):
        model = build_model(head="psp", width=8)
        load_openmmlab(model, path)
        for name, value in reference.state_dict().items():
            assert torch.equal(value, model.state_dict()[name]) or name.endswith("tracked"), (
                path,
                name,
            )


def test_convert_takes_mmengine_meta_and_its_preprocessing(tmp_path):
    config = (
        "data_preprocessor = dict(bgr_to_rgb=True, "
        "mean=[\n 1.5,\n 2,\n 3.0], std=[10.0, 20.0, 3e1,\n])"
    )
    meta = {"dataset_meta": {"classes": ("none", "fluid")}, "cfg": config}
    model = convert_openmmlab(openmmlab(tmp_path, meta=meta))
    assert model.classes == ["none", "fluid"]
    assert model.preprocess == {"mean": [1.5, 2.0, 3.0], "std": [10.0, 20.0, 30.0]}


def test_convert_refuses_bgr_and_meta_that_does_not_fit(tmp_path):
    with pytest.raises(InputError, match="trained on BGR images, dme's networks take RGB"):
        convert_openmmlab(
            openmmlab(tmp_path, meta={"config": "img_norm_cfg = dict(to_rgb=False)"})
        )
    message = r"classes \['a', 'b', 'c'\].*do not fit a network with 2 classes"
    with pytest.raises(InputError, match=message):
        convert_openmmlab(openmmlab(tmp_path, meta={"CLASSES": ("a", "b", "c")}))
    for meta in ({"CLASSES": 3}, {"config": "mean=[1e]"}):
        with pytest.raises(InputError, match="its meta data cannot be read"):
            convert_openmmlab(openmmlab(tmp_path, meta=meta))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"width": 16}, "the checkpoint has width 8, the network 16; build with width=8"),
        (
            {"num_classes": 3},
            "the checkpoint has num_classes 2, the network 3; build with num_classes=2",
        ),
        ({"head": "fcn"}, "the checkpoint has head psp, the network fcn; build with head='psp'"),
        (
            {"head_channels": 32},
            "the checkpoint has head_channels 16, the network 32; build with head_channels=16",
        ),
        (
            {"in_channels": 1},
            "the checkpoint has in_channels 3, the network 1; build with in_channels=3",
        ),
        ({"aux": False}, "the checkpoint has aux True, the network False; build with aux=True"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused_with_the_reason(arguments, reason):
    model = build_model(**({"head": "psp", "width": 8} | arguments))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_openmmlab(model, CHECKPOINT)
    assert reason in one_line(error)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_wrong_name_or_shape_is_listed(tmp_path):
    def damage(state):
        del state["decode_head.bottleneck.bn.bias"]
        state["decode_head.surplus.weight"] = torch.zeros(3)
        state["backbone.encoder.2.1.convs.0.bn.weight"] = torch.zeros(7)

    with pytest.raises(InputError) as error:
        load_openmmlab(build_model(head="psp", width=8), openmmlab(tmp_path, change=damage))
    message = one_line(error)
    assert "head.bottleneck.bn.bias is missing, expected (16,)" in message
    assert "decode_head.surplus.weight is (3,), expected none such" in message
    assert "backbone.encoder.2.0.bn.weight is (7,), expected (32,)" in message

    def rename_all(state):
        for name in list(state):
            state[f"other.{name}"] = state.pop(name)

    with pytest.raises(InputError) as error:
        load_openmmlab(build_model(head="psp", width=8), openmmlab(tmp_path, change=rename_all))
    # 144 tensors (172 less 28 counters) are missing and 144 unexpected
    assert one_line(error).count("is missing") == 144
    assert one_line(error).count("expected none such") == 144


def test_other_networks_are_no_unet(tmp_path):
    torch.save(
        {"state_dict": {"backbone.layer1.conv.weight": torch.zeros(1)}}, tmp_path / "resnet.pth"
    )
    with pytest.raises(InputError) as error:
        convert_openmmlab(tmp_path / "resnet.pth")
    told = one_line(error)
    assert "nor one of OpenMMLab's with a backbone (unet, mobilenet_v2," in told
    assert "it has backbone.layer1.conv.weight" in told


def test_a_file_must_have_the_hash_in_its_name(tmp_path):
    true_name = shutil.copy(CHECKPOINT, tmp_path / "renamed-ddfb472e.pth")
    assert convert_openmmlab(true_name).arch["width"] == 8
    false_name = shutil.copy(CHECKPOINT, tmp_path / "renamed-00000000.pth")
    for read in (
        convert_openmmlab,
        load_model,
        lambda path: load_openmmlab(build_model(width=8), path),
    ):
        with pytest.raises(InputError, match="has sha256 ddfb472e, its name says 00000000"):
            read(false_name)


def test_names_of_wrapped_networks(tmp_path):
    """DistributedDataParallel, torch.compile, trainers; mmengine's data_preprocessor."""
    reference = convert_openmmlab(CHECKPOINT)
    mean = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)

    for wrapper in ("module.", "module.module.", "_orig_mod.", "model.", "module._orig_mod."):

        def wrap(state, wrapper=wrapper):
            for name in list(state):
                state[wrapper + name] = state.pop(name)
            state[f"{wrapper}data_preprocessor.mean"] = mean
            state[f"{wrapper}data_preprocessor.std"] = 10 * mean

        path = openmmlab(tmp_path, change=wrap)
        model = convert_openmmlab(path)
        assert model.preprocess == {"mean": [1.0, 2.0, 3.0], "std": [10.0, 20.0, 30.0]}
        model.preprocess = reference.preprocess
        assert_same_network(model, reference)
        other = build_model(head="psp", width=8)
        load_openmmlab(other, path)
        assert torch.equal(other.head.classifier.weight, reference.head.classifier.weight)

    # the network's own names, as `torch.save(wrapped.state_dict(), ...)` leaves them
    state = {f"module.{name}": value for name, value in reference.state_dict().items()}
    torch.save(state, tmp_path / "saved.pth")
    assert torch.equal(
        load_model(tmp_path / "saved.pth").head.classifier.weight, reference.head.classifier.weight
    )


def test_two_tensors_of_one_name_are_refused(tmp_path):
    def double(state):
        for name in list(state):
            state[f"module.{name}"] = state[name]

    with pytest.raises(InputError, match=r"changed.pth does not fit .*module.decode_head"):
        convert_openmmlab(openmmlab(tmp_path, change=double))


def test_one_output_channel_is_refused_with_advice_that_works(tmp_path):
    names = ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias")
    names += ("auxiliary_head.conv_seg.weight", "auxiliary_head.conv_seg.bias")

    def one_channel(state):
        for name in names:
            state[name] = state[name][1:] - state[name][:1]

    path = openmmlab(tmp_path, change=one_channel)
    with pytest.raises(InputError, match=r"changed.pth has one output channel.*torch.cat") as e:
        convert_openmmlab(path)
    assert one_line(e)

    # the advice as given
    state = torch.load(path, weights_only=True)["state_dict"]
    for k in names:
        state[k] = torch.cat([torch.zeros_like(state[k]), state[k]])
    torch.save(state, tmp_path / "two.pth")
    model = convert_openmmlab(tmp_path / "two.pth")
    x = some_input()
    with torch.inference_mode():
        expected = convert_openmmlab(CHECKPOINT).eval()(x).softmax(1)
        torch.testing.assert_close(model.eval()(x).softmax(1), expected, atol=1e-5, rtol=0)


# Hostile and damaged files, in either format


def test_the_older_kind_of_file_needs_its_hash(tmp_path):
    """It has no checksums: of flipped bits in weights torch sees none."""
    path = openmmlab(tmp_path, legacy=True)
    named = with_its_hash(path)
    assert convert_openmmlab(named).arch["width"] == 8
    content = named.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(5):
        damaged = bytearray(content)
        place = int(generator.integers(len(content) // 4, len(content) - 200))
        damaged[place] ^= 1 << int(generator.integers(8))
        for name in ("f.pth", named.name, "f-00000000.pth"):
            (tmp_path / name).write_bytes(damaged)
            for read in (load_model, convert_openmmlab):
                with pytest.raises(InputError):
                    read(tmp_path / name)

    path.write_bytes(content)
    with pytest.raises(InputError, match=f"no checksums.* name it changed-.*{named.name[-12:]}"):
        load_model(path)
    save_model(convert_openmmlab(path.rename(named)), tmp_path / "new.pth")
    assert load_model(tmp_path / "new.pth").arch["width"] == 8

    # of ours too
    torch.save(
        torch.load(tmp_path / "new.pth", weights_only=True),
        tmp_path / "old-00000000.pth",
        _use_new_zipfile_serialization=False,
    )
    with pytest.raises(InputError, match="torch's older kind, which has no checksums"):
        load_model(tmp_path / "old-00000000.pth")


def test_an_archive_that_only_ends_as_one_is_of_the_older_kind(tmp_path):
    path = openmmlab(tmp_path, legacy=True)
    torch.save({"a": 1}, tmp_path / "zip.pth")
    path.write_bytes(path.read_bytes() + (tmp_path / "zip.pth").read_bytes())
    with pytest.raises(InputError, match="no checksums"):
        load_model(path)


def taken_by_loading(paths: list[Path]) -> tuple[int, list[str]]:
    """Bytes at most in use beyond those after the imports, and what was wrong with each file."""
    code = """if True:
        import resource, sys
        from dme.common.errors import InputError
        from dme.nets.loading import load_model

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        before = peak()
        for path in sys.argv[1:]:
            try:
                load_model(path)
            except InputError as e:
                print(e)
        print(peak() - before)
    """
    printed = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    *lines, kilobytes = printed.splitlines()
    return 1024 * int(kilobytes), lines


def expanded(tmp_path):
    """Every tensor of a wide network a view of one number."""
    with torch.device("meta"):
        state = build_model(head="psp", width=512).state_dict()
    views = {}
    for name, value in state.items():
        if not name.endswith("tracked"):
            views[name] = torch.ones(1).expand(value.shape)
    return ours(tmp_path, arch=SMALL | {"width": 512}, state_dict=views)


def openmmlab_expanded(tmp_path):
    path = expanded(tmp_path)
    torch.save(torch.load(path, weights_only=True)["state_dict"], path)
    return path


def one_storage(tmp_path):
    """Every tensor of a wide network a view of its largest."""
    with torch.device("meta"):
        state = build_model(head="psp", width=16).state_dict()
    storage = torch.ones(max(value.numel() for value in state.values()))
    views = {}
    for name, value in state.items():
        if not name.endswith("tracked"):
            views[name] = storage[: value.numel()].view(value.shape)
    return ours(tmp_path, arch=SMALL | {"width": 16}, state_dict=views)


def compressed(tmp_path):
    torch.save({"state_dict": {"zeros": torch.zeros(60_000_000)}}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain:
        with zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small:
            for name in plain.namelist():
                small.writestr(name, plain.read(name))
    return tmp_path / "small.pth"


def called(call):
    def make(tmp_path):
        torch.save({"state_dict": Payload(*call)}, tmp_path / "call.pth")
        return tmp_path / "call.pth"

    return make


def test_small_files_that_claim_much_take_little(tmp_path):
    cases = [
        (lambda folder: ours(folder, arch=SMALL | {"width": 4000}), "checkpoint has width 2, the"),
        (lambda folder: ours(folder, arch=SMALL | {"num_classes": 10**9}), "num_classes is 1e.09"),
        (lambda folder: ours(folder, arch=SMALL | {"in_channels": 2**62}), "in_channels is 4"),
        (expanded, "claims 7.* GB of weights, more than the file holds"),
        (openmmlab_expanded, "claims 7.* GB of weights, more than the file holds"),
        (one_storage, "claims .* GB of weights, more than the file holds"),
        (compressed, "small.pth unpacks to 0.2 GB, refused"),
        (called((bytearray, 10**9)), "asks for memory .*bytearray"),
        (called((torch.FloatTensor, 10**9)), "asks for memory .*FloatTensor"),
        (called((torch.UntypedStorage, 10**9)), "asks for memory .*UntypedStorage"),
    ]
    paths = []
    for i, (make, _) in enumerate(cases):
        folder = tmp_path / str(i)
        folder.mkdir()
        paths.append(make(folder))
    taken, lines = taken_by_loading(paths)
    for path, line, (_, message) in zip(paths, lines, cases, strict=True):
        assert line.startswith(str(path))
        assert re.search(message, line), line
    assert taken < 150e6


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2, dtype=torch.int32), "no plain floating-point weights in .*int32"),
        (torch.ones(2, dtype=torch.complex64), "no plain floating-point weights in .*complex64"),
        (torch.tensor([1e300, 1], dtype=torch.float64), "NaN or infinity in head.classifier.bias"),
        (torch.ones(2, device="meta"), "asks for memory .*meta"),
        (torch.eye(2)[0].to_sparse(), "asks for memory .*sparse"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(tmp_path, tensor, message):
    state = torch.load(ours(tmp_path), weights_only=True)["state_dict"]
    path = ours(tmp_path, state_dict=state | {"head.classifier.bias": tensor})
    with pytest.raises(InputError, match=message):
        load_model(path)


def test_a_variance_below_0_is_refused(tmp_path):
    def negate(state):
        state["backbone.encoder.2.1.convs.0.bn.running_var"].neg_()

    message = "changed.pth: a variance below 0 in backbone.encoder.2.0.bn.running_var"
    with pytest.raises(InputError, match=message):
        load_model(openmmlab(tmp_path, change=negate))


class Payload:
    def __init__(self, call, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("read", [convert_openmmlab, load_model])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, legacy, read):
    trace = tmp_path / "was-run"
    path = openmmlab(tmp_path, legacy=legacy, meta=Payload(os.system, f"touch {trace}"))
    message = r"contains code \((posix|nt)\.system\), refused; .* source you trust"
    with pytest.raises(InputError, match=message) as error:
        read(path)
    assert not trace.exists()
    assert one_line(error)
    with pytest.raises(InputError, match=r"contains code \((builtins\.)?eval\), refused"):
        read(openmmlab(tmp_path, legacy=legacy, meta=Payload(eval, "1")))


def test_what_training_logs_beside_the_weights_is_named_with_the_way_out(tmp_path):
    path = openmmlab(tmp_path, message_hub={"loss": np.float64(0.5)})
    with pytest.raises(InputError) as error:
        convert_openmmlab(path)
    message = one_line(error)
    assert "contains code (numpy." in message
    assert "torch.save({'state_dict': c['state_dict']}, NEW)" in message
    # the advice as given
    c = torch.load(path, weights_only=False)
    torch.save({"state_dict": c["state_dict"]}, tmp_path / "new.pth")
    assert convert_openmmlab(tmp_path / "new.pth").arch["width"] == 8


@pytest.mark.parametrize("kept", [0, 1, 1000, 0.5, 0.999])
@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_files_are_refused(tmp_path, kept, legacy):
    path = openmmlab(tmp_path, legacy=legacy)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    for read in (convert_openmmlab, load_model):
        message = "no torch checkpoint, or damaged or cut short"
        with pytest.raises(InputError, match=message) as error:
            read(path)
        assert one_line(error)


def test_files_that_are_something_else_are_refused(tmp_path):
    text = tmp_path / "page.pth"
    text.write_text("<html>not found</html>")
    with pytest.raises(InputError, match="no torch checkpoint, or damaged"):
        load_model(text)
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds a list, expected a checkpoint's dictionary"):
        load_model(tmp_path / "list.pth")
    torch.save({"step": 3, "model": "psp"}, tmp_path / "other.pth")
    message = "neither a dme checkpoint .* OpenMMLab's .* it has step, model"
    with pytest.raises(InputError, match=message):
        load_model(tmp_path / "other.pth")
    torch.save({"state_dict": [1]}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match="neither a dme checkpoint"):
        convert_openmmlab(tmp_path / "odd.pth")
    with pytest.raises(InputError, match="is a folder; give a checkpoint file"):
        load_model(tmp_path)
    for read in (load_model, convert_openmmlab):
        with pytest.raises(InputError, match="absent.pt is not there"):
            read(tmp_path / "absent.pt")
    with pytest.raises(InputError, match="^absent.pt is not there"):
        load_model("absent.pt")


# Our own files


@pytest.mark.parametrize("head", ["psp", "fcn", "deeplabv3"])
@pytest.mark.parametrize("aux", [True, False])
def test_save_and_load_give_the_same_network(tmp_path, head, aux):
    model = small_model(head, num_classes=3, in_channels=1, head_channels=5, aux=aux)
    model.preprocess = {"mean": [12.0], "std": [34.0]}
    model.classes = ["vitreous", "retina", "fluid"]
    save_model(model, tmp_path / "sub" / "m.pth", extra={"seed": 3, "note": ["a", None]})
    again = load_model(tmp_path / "sub" / "m.pth")
    assert_same_network(model, again)
    assert not again.training
    assert again.weights_name == "m.pth"
    assert again.weights_extra == {
        "seed": 3,
        "note": ["a", None],
    }
    assert (
        again.weights_sha256
        == hashlib.sha256((tmp_path / "sub" / "m.pth").read_bytes()).hexdigest()
    )
    x = some_input(channels=1)
    with torch.inference_mode():
        assert torch.equal(model(x), again(x))
    assert os.listdir(tmp_path / "sub") == ["m.pth"]


def test_the_same_network_gives_the_same_bytes(tmp_path):
    model = small_model()
    save_model(model, tmp_path / "a.pth")
    save_model(model, tmp_path / "b.pth")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_float16_is_small_and_close(tmp_path):
    torch.manual_seed(0)
    model = build_model(head="psp", width=16).eval()
    model.backbone.encoder[0][0].bn.running_var.fill_(1e6)  # beyond float16, kept in float32
    with torch.no_grad():
        model.backbone.encoder[0][0].bn.weight.fill_(1e3)
    save_model(model, tmp_path / "half.pth", dtype=torch.float16)
    assert (tmp_path / "half.pth").stat().st_size < 4_000_000
    again = load_model(tmp_path / "half.pth")
    assert all(
        value.dtype in (torch.float32, torch.int64) for value in again.state_dict().values()
    )
    assert torch.equal(
        again.backbone.encoder[0][0].bn.running_var, model.backbone.encoder[0][0].bn.running_var
    )
    x = some_input()
    with torch.inference_mode():
        expected = model(x)
        found = again(x)
    assert 0 < (found - expected).abs().max() < 5e-3 * expected.std()


SMALLEST = 2.0**-24  # of float16, which holds its multiples below 2^-14


def test_float16_may_be_wrong_by_a_thousandth(tmp_path):
    """Of 1000.5 steps half a one is lost, of 25.5 (refused below) a fiftieth."""
    model = small_model()
    with torch.no_grad():
        model.backbone.up[0].conv.weight.fill_(1000.5 * SMALLEST)
    save_model(model, tmp_path / "half.pth", dtype=torch.float16)
    again = load_model(tmp_path / "half.pth").backbone.up[0].conv.weight
    assert (again / SMALLEST).unique().tolist() == [1000]


@pytest.mark.parametrize("value", [1e5, 1e-9, 25.5 * SMALLEST, 499.5 * SMALLEST])
def test_float16_that_cannot_hold_a_weight_is_refused(tmp_path, value):
    model = small_model()
    with torch.no_grad():
        model.backbone.up[0].conv.weight.fill_(value)
    message = r"backbone.up.0.conv.weight \(largest value .*\) does not fit torch.float16"
    with pytest.raises(InputError, match=message):
        save_model(model, tmp_path / "half.pth", dtype=torch.float16)
    save_model(model, tmp_path / "full.pth")
    assert os.listdir(tmp_path) == ["full.pth"]


def test_diverged_weights_are_neither_written_nor_read(tmp_path):
    model = small_model()
    model.backbone.decoder[1][0].bn.running_mean[0] = float("nan")
    message = "m.pth not written: NaN or infinity in backbone.decoder.1.0.bn.running_mean;"
    with pytest.raises(InputError, match=message):
        save_model(model, tmp_path / "m.pth")
    state = small_model().state_dict()
    state["head.classifier.bias"][1] = float("inf")
    state = {name: value for name, value in state.items() if not name.endswith("tracked")}
    message = "NaN or infinity in head.classifier.bias; the training that made it diverged"
    with pytest.raises(InputError, match=message):
        load_model(ours(tmp_path, state_dict=state))


def test_a_record_of_provenance_can_be_read_again(tmp_path):
    """torch's own version is no string but a class, which weights_only refuses."""
    save_model(small_model(), tmp_path / "m.pth", extra={"made": provenance()})
    assert (
        load_model(tmp_path / "m.pth").weights_extra["made"]["versions"]["torch"]
        == torch.__version__
    )


def test_a_checkpoint_does_not_say_who_made_it_from_whose_data(tmp_path):
    extra = {"command": "python finetune.py --data /x/Doe", "data": "8 B-scans from /x/Doe"}
    save_model(small_model(), tmp_path / "m.pth", extra=extra | {"split": "random"})
    assert load_model(tmp_path / "m.pth").weights_extra == {"split": "random"}
    assert b"Doe" not in (tmp_path / "m.pth").read_bytes()


def test_extra_must_be_plain_data(tmp_path):
    with pytest.raises(TypeError):
        save_model(small_model(), tmp_path / "m.pth", extra={"score": np.float32(1)})
    assert not any(tmp_path.iterdir())


SMALL = {
    "backbone": "unet",
    "head": "psp",
    "num_classes": 2,
    "width": 2,
    "in_channels": 3,
    "head_channels": 16,
    "aux": True,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2, this version reads 1; update dme"),
        ({"arch": None, "classes": None}, "lacks arch, classes; it was not written by"),
        (
            {"arch": SMALL | {"width": 4}},
            r"the checkpoint has width 2, the network 4; build with width=2; backbone",
        ),
        (
            {"arch": SMALL | {"head": "segformer"}},
            "describes no network of this version: unknown head 'segformer'",
        ),
        ({"arch": SMALL | {"depth": 6}}, "describes no network of this version: .*depth"),
        ({"arch": SMALL | {"width": "2"}}, "describes no network of this version"),
        ({"arch": [1]}, "describes no network of this version"),
        (
            {"preprocess": {"mean": [1.0, 2.0, 3.0]}},
            "do not fit a network with 2 classes and 3 input channels",
        ),
        (
            {"preprocess": {"mean": [1.0], "std": [2.0]}},
            "do not fit a network with 2 classes and 3 input channels",
        ),
        ({"preprocess": {"mean": [0.0] * 3, "std": [1.0, 0.0, 1.0]}}, "do not fit a network"),
        ({"preprocess": PREPROCESS | {"size": ["512"]}}, "do not fit a network"),
        ({"preprocess": [1]}, "do not fit a network"),
        ({"extra": [1]}, "do not fit a network"),
        ({"classes": [1, 2]}, "do not fit a network"),
        ({"classes": "ab"}, "classes ab .*do not fit a network with 2 classes"),
        ({"state_dict": {1: torch.zeros(1)}}, "its state_dict does not map names to tensors"),
        (
            {"classes": ["only one"]},
            r"classes \['only one'\].* do not fit a network with 2 classes",
        ),
        ({"state_dict": [1, 2]}, "its state_dict does not map names to tensors"),
        ({"state_dict": {"a": 1}}, "its state_dict does not map names to tensors"),
        (
            {"state_dict": {}},
            "does not fit the network: backbone.encoder.0.0.conv.weight is missing, "
            ".*; aux_head.classifier.bias is missing",
        ),
    ],
)
def test_a_file_of_ours_that_is_not_in_order_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as error:
        load_model(ours(tmp_path, **changes))
    assert "ours.pth" in one_line(error)


def test_load_model_reads_openmmlab_files_too(tmp_path):
    model = load_model(CHECKPOINT)
    assert not model.training
    assert_same_network(model, convert_openmmlab(CHECKPOINT))
    assert model.weights_name == CHECKPOINT.name
    assert model.weights_sha256.startswith("ddfb472e")
    save_model(model, tmp_path / "converted.pth", extra=model.weights_extra)
    assert_same_network(model, load_model(tmp_path / "converted.pth"))


def test_trained_checkpoints_find_the_vessels_of_a_real_fundus(golden, real_data, tmp_path):
    """Trained on HRF at half resolution; on 08_h, a validation image, they reach about 0.8."""
    paths = sorted((golden.parent / "weights").glob("*_unet_s5-d16_w16_hrf-*.pth"))
    if not paths:
        pytest.skip("no trained checkpoints beside the golden folder")
    half = (1752, 1168)
    crop = np.s_[300:812, 600:1112]
    image = Image.open(real_data / "hrf" / "images" / "08_h.jpg").resize(
        half, Image.Resampling.BILINEAR
    )
    vessels = (
        Image.open(next((real_data / "hrf" / "vessels").glob("08_h*"))).convert("L").resize(half)
    )
    truth = np.asarray(vessels)[crop] > 127
    rgb = torch.from_numpy(np.asarray(image)[crop].copy()).permute(2, 0, 1).unsqueeze(0)

    def dice(model, image):
        with torch.inference_mode():
            found = model(normalise(image, model.preprocess)).argmax(1)[0].numpy() == 1
        return 2 * (found & truth).sum() / (found.sum() + truth.sum())

    for path in paths:
        model = load_model(path)
        assert model.arch["head"] == {"f": "fcn", "p": "psp", "d": "deeplabv3"}[path.name[0]]
        assert model.arch["width"] == 16
        assert model.classes == ["background", "vessel"]
        score = dice(model, rgb)
        assert score > 0.75
        assert dice(model, rgb.flip(1)) < 0.5  # RGB order matters
        save_model(model, tmp_path / "half.pth", dtype=torch.float16, extra=model.weights_extra)
        assert (tmp_path / "half.pth").stat().st_size < 4_000_000
        assert dice(load_model(tmp_path / "half.pth"), rgb) == pytest.approx(score, abs=1e-3)


# Names


def test_the_committed_names_are_complete():
    entries = named.known()
    assert set(NAMES) <= set(entries)
    for name, entry in entries.items():
        arch = entry["arch"]
        assert arch.items() <= build_model(**arch).arch.items(), name
        assert entry["licence"], name
        assert entry["trained_on"], name
        assert entry["reported"]["what"], name
        if "url" in entry:
            assert entry["url"].startswith("https://"), name
            assert entry["url"].endswith(f"-{entry['sha256']}.pth"), name
            assert name.split("-")[1] == arch["head"]
            assert arch["width"] == (64 if arch["backbone"] == "unet" else 1)
            assert ("ce-1.0-dice-3.0" in entry["url"]) == ("ce-dice" in name)
            assert ("scratch" in entry["url"]) == ("scratch" in name)
            assert {"psp": "pspnet"}.get(arch["head"], arch["head"]) in entry["url"]
            assert (arch["backbone"] in name) == (arch["backbone"] != "unet")
            mark = {
                "unet": "unet_s5-d16",
                "mobilenet_v2": "v2-d8",
                "mobilenet_v3_large": "v3-d8",
                "mobilenet_v3_small": "v3s-d8",
            }
            assert mark[arch["backbone"]] in entry["url"]
        else:
            assert (
                hashlib.sha256((named.ZOO / entry["file"]).read_bytes()).hexdigest()
                == entry["sha256"]
            ), name
    reported = {name: entries[name]["reported"]["dice_percent"] for name in NAMES[:3]}
    assert list(reported.values()) == [80.07, 79.45, 80.21]


def test_an_unknown_name_lists_the_known_ones():
    for ask in (load_model, download):
        with pytest.raises(InputError, match="unknown weights 'hrf-pspnet'; give a file") as error:
            ask("hrf-pspnet")
        assert all(name in one_line(error) for name in NAMES)


def test_a_first_prediction_waits_for_no_package_that_it_does_not_use():
    """PyTorch's compiler alone takes longer to import than everything else."""
    unused = ("torch._dynamo", "sympy", "tensorboard", "scipy.stats", "onnx", "matplotlib")
    code = (
        "import sys, numpy, dme, dme.commands.predict, dme.report.results_folder; "
        "dme.predict('dme-fluid', numpy.zeros((64, 64), 'uint8')); "
        f"print(*[name for name in {unused} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_nothing_is_downloaded_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(
        downloading.urllib.request, "urlopen", lambda *a, **k: pytest.fail("went to the network")
    )
    with pytest.raises(InputError) as error:
        load_model("hrf-psp-openmmlab")
    assert "not downloaded" in one_line(error)
    assert "run ./run.sh weights hrf-psp-openmmlab" in one_line(error)
    assert str(tmp_path / "cache" / "weights" / "hrf-psp-openmmlab.pth") in one_line(
        error
    )  # DME_CACHE


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A zoo folder of our own; call it with name=entry to (re)write zoo.json."""
    folder = tmp_path / "zoo"
    folder.mkdir()

    def write(**entries):
        common = {
            "arch": convert_openmmlab(CHECKPOINT).arch,
            "reported": {"dice_percent": 12.5, "what": "vessel Dice"},
            "licence": "Apache-2.0",
            "trained_on": "noise",
        }
        (folder / "zoo.json").write_text(
            json.dumps({name: common | entry for name, entry in entries.items()})
        )
        return folder

    write()
    monkeypatch.setattr(named, "ZOO", folder)
    return write


def test_shipped_weights_load_by_name_and_only_unaltered(zoo):
    folder = zoo()
    model = small_model()
    save_model(model, folder / "tiny.pth")
    digest = hashlib.sha256((folder / "tiny.pth").read_bytes()).hexdigest()
    zoo(tiny={"file": "tiny.pth", "sha256": digest})
    loaded = load_model("tiny")
    assert_same_network(model, loaded)
    assert loaded.weights_name == "tiny"
    assert loaded.weights_sha256 == digest
    assert download("tiny") == folder / "tiny.pth"

    other = small_model()
    with torch.no_grad():
        other.head.classifier.bias += 1
    save_model(other, folder / "tiny.pth")  # a sound checkpoint, but another one
    message = f"tiny.pth was altered: its sha256 is .*, expected {digest}"
    with pytest.raises(InputError, match=message):
        load_model("tiny")
    (folder / "tiny.pth").unlink()
    with pytest.raises(InputError, match="tiny.pth is not there: tiny comes with a clone"):
        load_model("tiny")


# Downloads


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; `ranges` off ignores Range, `cut` ends each answer after so many bytes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.ranges = True
        self.cut = None
        self.length = None  # what Content-Length says, if not the truth
        self.asked = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.headers["Range"])
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = 0
        if self.server.ranges and self.headers["Range"]:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", self.server.length or str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:][: self.server.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def remote(zoo, server):
    """The name "remote": the golden checkpoint, on the server. Returns the download's folder."""
    server.files["/psp-ddfb472e.pth"] = CHECKPOINT.read_bytes()
    zoo(remote={"url": f"{server.url}/psp-ddfb472e.pth", "sha256": "ddfb472e"})
    return Path(os.environ["DME_CACHE"]) / "weights"


def test_download_verifies_converts_and_leaves_one_file(remote, server, capsys):
    path = download("remote")
    assert path == remote / "remote.pth"
    assert os.listdir(remote) == ["remote.pth"]
    assert "100%" in capsys.readouterr().err
    model = load_model("remote")
    assert_same_network(model, convert_openmmlab(CHECKPOINT))
    assert model.weights_name == "remote"
    assert (
        model.weights_extra["source_sha256"] == hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    )
    assert model.weights_extra["url"] == f"{server.url}/psp-ddfb472e.pth"
    assert model.weights_extra["licence"] == "Apache-2.0"
    assert (
        download("remote") == path and len(server.asked) == 1
    )  # there already: not asked for again


def test_download_into_another_folder(remote, server, tmp_path):
    path = download("remote", tmp_path / "elsewhere")
    assert path == tmp_path / "elsewhere" / "remote.pth"
    assert not remote.exists()
    assert_same_network(load_model(path), convert_openmmlab(CHECKPOINT))


def test_a_broken_download_is_resumed(remote, server):
    server.cut = 700_000
    with pytest.raises(InputError) as error:
        download("remote")
    part = remote / "psp-ddfb472e.pth.part"
    assert os.listdir(remote) == [part.name]
    assert part.stat().st_size == 700_000
    assert f"broke off at 700000 of {CHECKPOINT.stat().st_size} bytes" in one_line(error)
    assert f"run it again (it resumes {part})" in one_line(error)
    server.cut = None
    download("remote")
    assert server.asked == [None, "bytes=700000-"]
    assert os.listdir(remote) == ["remote.pth"]
    assert_same_network(load_model("remote"), convert_openmmlab(CHECKPOINT))


@pytest.mark.parametrize("length", ["abc", "-5", "1e6", "9" * 5000, "²"])
def test_a_broken_length_is_no_length(remote, server, length):
    server.length = length.encode().decode("latin-1")
    download("remote")
    assert os.listdir(remote) == ["remote.pth"]
    assert_same_network(load_model("remote"), convert_openmmlab(CHECKPOINT))


def test_two_downloads_of_one_name_fetch_it_once(remote, server):
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(download, ["remote", "remote"]))
    assert paths == [remote / "remote.pth"] * 2
    assert server.asked == [None]
    assert os.listdir(remote) == ["remote.pth"]


def test_a_server_without_ranges_starts_over(remote, server):
    server.ranges = False
    remote.mkdir(parents=True)
    (remote / "psp-ddfb472e.pth.part").write_bytes(CHECKPOINT.read_bytes()[:1000])
    download("remote")
    assert server.asked == ["bytes=1000-"]
    assert_same_network(load_model("remote"), convert_openmmlab(CHECKPOINT))


def test_a_whole_part_is_verified_without_another_byte(remote, server):
    remote.mkdir(parents=True)
    (remote / "psp-ddfb472e.pth.part").write_bytes(CHECKPOINT.read_bytes())
    download("remote")
    assert os.listdir(remote) == ["remote.pth"]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_download_with_the_wrong_hash_is_deleted(remote, server, resumed):
    damaged = bytearray(CHECKPOINT.read_bytes())
    damaged[1_000_000] ^= 1
    if resumed:
        remote.mkdir(parents=True)
        (remote / "psp-ddfb472e.pth.part").write_bytes(damaged[:1_500_000])
    else:
        server.files["/psp-ddfb472e.pth"] = bytes(damaged)
    digest = hashlib.sha256(damaged).hexdigest()
    message = f"gave sha256 {digest[:8]}, expected ddfb472e; deleted, run it again"
    with pytest.raises(InputError, match=message):
        download("remote")
    assert os.listdir(remote) == []


def test_a_downloaded_file_with_code_is_refused(zoo, server, tmp_path):
    trace = tmp_path / "was-run"
    hostile = openmmlab(tmp_path, meta=Payload(os.system, f"touch {trace}")).read_bytes()
    server.files["/h.pth"] = hostile
    zoo(hostile={"url": f"{server.url}/h.pth", "sha256": hashlib.sha256(hostile).hexdigest()[:8]})
    with pytest.raises(InputError, match="contains code"):
        download("hostile")
    assert not trace.exists()
    assert not named.path_of("hostile").exists()


def test_a_missing_page_and_a_refused_connection_are_one_line(remote, server, zoo):
    server.files.clear()
    message = "cannot download .*/psp-ddfb472e.pth: the server answered 404 Not Found"
    with pytest.raises(InputError, match=message) as e:
        download("remote")
    assert f"--convert FILE --out {remote / 'remote.pth'}" in one_line(e)
    assert "resumes" not in one_line(e)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    zoo(remote={"url": f"http://127.0.0.1:{port}/psp-ddfb472e.pth", "sha256": "ddfb472e"})
    with pytest.raises(InputError, match="cannot download http://127.0.0.1.*refused") as e:
        download("remote")
    assert one_line(e)
    assert os.listdir(remote) == []


# The script


def run_script(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["weights.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        runpy.run_path(str(EXPERIMENTS / "weights.py"), run_name="__main__")
    printed = capsys.readouterr()
    return leaving.value.code or 0, printed.out, printed.err


def test_script_lists_downloads_and_converts(monkeypatch, capsys, remote, server, tmp_path):
    code, out, _ = run_script(monkeypatch, capsys)
    assert code == 0
    assert "remote (not here)" in out
    assert server.asked == []
    for fact in (
        "psp head of 16 channels",
        "width 8",
        "12.5 %: vessel Dice",
        "Apache-2.0",
        f"{server.url}/psp-",
    ):
        assert fact in out
    code, out, _ = run_script(monkeypatch, capsys, "remote")
    assert code == 0
    assert load_model("remote").weights_sha256 in out
    assert "remote (downloaded)" in run_script(monkeypatch, capsys)[1]
    code, out, _ = run_script(
        monkeypatch, capsys, "--convert", CHECKPOINT, "--out", tmp_path / "c.pth"
    )
    assert code == 0
    assert "classes background, vessel" in out
    assert_same_network(load_model(tmp_path / "c.pth"), convert_openmmlab(CHECKPOINT))

    # nothing is replaced, nor is a file by what is made of it
    before = (tmp_path / "c.pth").read_bytes()
    for source in (CHECKPOINT, tmp_path / "c.pth"):
        words = ("--convert", source, "--half", "--out", tmp_path / "c.pth")
        code, _, err = run_script(monkeypatch, capsys, *words)
        assert code == 2
        assert "c.pth is there already: move it away, or choose another --out" in err
        assert (tmp_path / "c.pth").read_bytes() == before


def test_script_errors_are_one_line_and_exit_2(monkeypatch, capsys, remote, server):
    server.files.clear()
    for arguments, message in (
        (["remote"], "the server answered 404"),
        (["remote", "nope"], "unknown weights 'nope'"),
        (["--convert", CHECKPOINT], "--convert FILE --out PATH"),
        (["remote", "--half"], "--convert FILE --out PATH"),
        (["--convert", "absent.pth", "--out", "x.pth"], "absent.pth is not there"),
    ):
        code, out, err = run_script(monkeypatch, capsys, *arguments)
        assert code == 2
        assert out == ""
        assert message in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    assert server.asked == [None]  # an unknown name is noticed before the first download
