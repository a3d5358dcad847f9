"""Which questions a model is asked, and about which images."""

from dataclasses import replace
from pathlib import Path

import pytest

from rlaifv.benchmarks.protocol import Given, Item
from rlaifv.benchmarks.questions import Asking, questions_of
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt
from tests.benchmarks.fakes import Exam, write_exam


@pytest.fixture
def given(prompts: list[Prompt], tmp_path: Path) -> Given:
    place = write_exam(tmp_path, prompts)
    return Given(questions=place / "questions.jsonl", images=place / "images")


def test_questions_are_gathered_by_their_images(given: Given, prompts: list[Prompt], tmp_path: Path) -> None:
    found = questions_of(Exam(), given, Asking(), tmp_path / "pictures")
    assert [item.id for item in found.items] == [str(10 * k + half) for half in range(2) for k in range(6)]
    assert [[item.id for item in one.items] for one in found.images] == [
        [f"{10 * k}", f"{10 * k + 1}"] for k in range(6)
    ]
    assert not found.is_part
    assert [Path(one.prompt.image_paths[0]).name for one in found.images[:5]] == [f"{k}.png" for k in range(5)]


def test_a_picture_within_the_file_is_written_once(given: Given, prompts: list[Prompt], tmp_path: Path) -> None:
    for _ in range(2):
        last = questions_of(Exam(), given, Asking(), tmp_path / "pictures").images[-1]
    (path,) = (tmp_path / "pictures").iterdir()
    assert last.prompt.image_paths == (str(path),)
    assert path.read_bytes() == Path(prompts[-1].image_paths[0]).read_bytes()


@pytest.mark.parametrize(("num_items", "number"), [(1, 2), (2, 2), (5, 6), (12, 12), (99, 12), (None, 12)])
def test_a_part_is_of_whole_images_and_always_the_same(
    given: Given, num_items: int | None, number: int, tmp_path: Path
) -> None:
    found = [questions_of(Exam(), given, Asking(num_items=num_items), tmp_path / "pictures") for _ in range(2)]
    assert found[0] == found[1]
    assert len(found[0].items) == number == sum(len(one.items) for one in found[0].images)
    assert all(len(one.items) == 2 for one in found[0].images)
    assert found[0].is_part == (number < 12)


def test_questions_without_images_are_alone(given: Given, tmp_path: Path) -> None:
    class Blind(Exam):
        def items(self, given: Given) -> list[Item]:
            return [replace(item, images=() if len(item.id) == 1 else item.images) for item in super().items(given)]

    found = questions_of(Blind(), given, Asking(), tmp_path)
    assert [len(one.items) for one in found.images] == [1, 2, 2, 2, 2, 2, 1]
    assert [one.prompt.image_paths for one in found.images[::6]] == [(), ()]


def test_a_larger_part_holds_the_smaller_one(given: Given, tmp_path: Path) -> None:
    parts = [{i.id for i in questions_of(Exam(), given, Asking(num_items=k), tmp_path).items} for k in (2, 6, 10)]
    assert parts[0] < parts[1] < parts[2]
    assert parts[0] != {"0", "1"}  # not simply the first ones


def test_the_digest_tells_questions_apart(given: Given, tmp_path: Path) -> None:
    assert given.questions is not None
    before = questions_of(Exam(), given, Asking(), tmp_path / "pictures").digest
    text = given.questions.read_text()
    for other in (text.replace("top left", "top right", 1), text.replace('"0.png"', '"1.png"', 1)):
        given.questions.write_text(other)
        assert questions_of(Exam(), given, Asking(), tmp_path / "pictures").digest != before


def test_images_that_cannot_be_read_are_refused_or_left_out(given: Given, tmp_path: Path) -> None:
    assert given.images is not None
    (given.images / "1.png").unlink()
    (given.images / "2.png").write_bytes(b"none")
    with pytest.raises(
        ValueError, match=r"^Question 10 of benchmark=exam: .*1\.png.* So it is with 1 more images\. allow_inc"
    ):
        questions_of(Exam(), given, Asking(), tmp_path / "pictures")
    found = questions_of(Exam(), Given(given.questions, images=given.images, allow_incomplete=True), Asking(), tmp_path)
    assert len(found.items) == 8
    assert found.is_part


def test_where_images_may_lie(given: Given, tmp_path: Path) -> None:
    assert given.questions is not None
    with pytest.raises(
        ValueError, match=r"^images=… must be given for benchmark=exam: the directory that 0\.png lies in\.$"
    ):
        questions_of(Exam(), Given(given.questions), Asking(), tmp_path)
    given.questions.write_text(given.questions.read_text().replace("0.png", "../0.png", 1))
    with pytest.raises(ValueError, match=r"^The image \.\./0\.png of benchmark=exam does not lie in"):
        questions_of(Exam(), given, Asking(), tmp_path)


def test_no_question_at_all(given: Given, tmp_path: Path) -> None:
    assert given.questions is not None
    given.questions.write_text("")
    with pytest.raises(ValueError, match=r"^There is no question of benchmark=exam to ask\.$"):
        questions_of(Exam(), given, Asking(), tmp_path)


def test_answers_are_cut_where_less_is_asked_for() -> None:
    assert Asking().decoding(Exam()) == Exam.decoding
    assert Asking(max_new_tokens=5).decoding(Exam()) == Decoding(temperature=0, max_new_tokens=5)
    assert Asking(max_new_tokens=500).decoding(Exam()) == Exam.decoding
