from dme.common import words
from dme.inference import sizes
from dme.nets import segmenter


def test_words_are_the_names_of_what_they_stand_for():
    assert words.SIZE_NAMES == tuple(sizes.SIZES)
    assert words.HEAD_NAMES == tuple(segmenter.HEADS)
    assert words.BACKBONE_NAMES == tuple(segmenter.BACKBONES)
    for name, backbone in segmenter.BACKBONES.items():
        assert words.HEADS_OF[name] == tuple(backbone.HEADS)
