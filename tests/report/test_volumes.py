"""What the maps of volumes say in their sectors."""

from dme.report.volumes import written_means


def test_a_sector_of_which_next_to_nothing_was_seen_has_no_mean_in_the_map():
    sectors = []
    for covered, mean in ((100.0, 290.4), (0.35, 331.8), (10.0, 0.0), (0.0, None)):
        sectors.append({"covered_percent": covered, "mean_um": mean})
    assert written_means(sectors) == [290.4, None, 0.0, None]
