"""What counts as right: exact words, any of several, and numbers that are off by a twentieth at most."""

from vision_scores import exact_match, right


def test_no_number_is_off_in_an_exact_match():
    assert exact_match(" animal-mammal", "Animal-Mammal")
    assert not exact_match("100.0", "100")


def test_each_data_set_has_its_own_rule():
    assert right(["95", "95"], [["100"], ["100"]], ["charts", "emoji"]) == [True, False]


def test_each_of_several_references_is_right():
    references = [["flag", "banner"]] * 3
    assert right(["flag", "Banner", "flag, banner"], references, ["emoji"] * 3) == [True, True, False]
