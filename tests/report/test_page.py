import base64
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from jinja2 import Environment
from PIL import Image
from pyarrow import parquet

from rlaifv.report import page as page_module
from rlaifv.report.page import render, write_report
from rlaifv.report.run import Evaluation, Example, JudgedClaim, Run, Selection

ATTACKS = (
    "<script>alert(1)</script>",
    "</mark></p></style><script src=//evil.example/x.js></script>",
    '" onmouseover="alert(1)',
    "' onerror='alert(1)",
    '<img src=x onerror=alert(1)><a href="javascript:alert(1)">here</a>',
    "</title></textarea></pre><iframe srcdoc='<script>1</script>'>",
    "{{ 7 * 7 }}{% raw %} & &lt; \u202e\x00 \ud800",
)


class Page(HTMLParser):
    """Elements and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, css_class: str = "") -> list[dict[str, str | None]]:
        """Attributes of the elements of a tag and class."""
        return [a for t, a in self.elements if t == tag and css_class in [*(a.get("class") or "").split(), ""]]


def read(run_dir: Path) -> Page:
    return Page(write_report(run_dir).read_text(encoding="utf-8"))


def poison(value: Any, text: str) -> Any:
    """Every text of a JSON value replaced; keys stay."""
    if isinstance(value, dict):
        return {key: poison(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [poison(item, text) for item in value]
    return text if isinstance(value, str) else value


def test_report_of_a_whole_run(make_run: Callable[..., Path]) -> None:
    run_dir = make_run()
    path = write_report(run_dir)
    assert path == run_dir / "report" / "index.html"
    page = Page(path.read_text(encoding="utf-8"))
    for text in ("85.2%", "8.6%", "48.6%", "4.1%", "57.9%", "72.9%", "76.6 points, better", "1,445 preference pairs"):
        assert text in page.text
    assert len(page.all("figure", "chart")) == 3 + 3 + 1 + 3
    assert len(page.all("article")) == 6 + 6
    assert len(page.all("img")) == 12
    assert "beta: 0.1   # <- of the DPO loss & its rewards" in page.text
    for name in ("hallucination/response", "labeler/agreement", "rewards/margins", "dropped/over_cap"):
        assert name in page.text


def test_claims_carry_verdict_probability_and_truth(make_run: Callable[..., Path]) -> None:
    run_dir = make_run()
    page = read(run_dir)
    base = json.loads((run_dir / "evaluations" / "000.json").read_text(encoding="utf-8"))
    claim = base["examples"][0]["claims"][0]
    truth = "true" if claim["truth"] else "false"
    title = f"labeler: {claim['verdict']}, p_yes {claim['p_yes']:.2f}, p_no {claim['p_no']:.2f}; in truth: {truth}"
    assert title in [mark.get("title") for mark in page.all("mark", claim["verdict"])]
    assert page.all("span", "wrong")
    assert page.all("span", "right")
    assert all(mark["class"] in ("accepted", "rejected", "unknown") for mark in page.all("mark"))


def test_report_loads_nothing(make_run: Callable[..., Path]) -> None:
    page = read(make_run())
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "img-src data:;" in policy
    assert "script-src" not in policy
    sources = [
        str(a[name]) for _, a in page.elements for name in ("src", "href", "srcset", "data", "action") if name in a
    ]
    assert sources
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert not page.all("script")
    assert not page.all("link")
    targets = {source[1:] for source in sources if source.startswith("#")}
    assert targets == {a["id"] for a in page.all("section")}


def test_embedded_images_are_small_and_whole(make_run: Callable[..., Path]) -> None:
    run_dir = make_run()
    Image.new("RGB", (1600, 1200), "teal").save(run_dir / "scenes" / "00000.png")
    sizes = []
    for image in read(run_dir).all("img"):
        data = base64.b64decode(str(image["src"]).partition(",")[2])
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            sizes.append(picture.size)
    assert (384, 288) in sizes
    assert max(max(size) for size in sizes) == 384


@pytest.mark.parametrize("attack", ATTACKS)
def test_untrusted_text_stays_text(make_run: Callable[..., Path], attack: str) -> None:
    run_dir = make_run(0)
    path = run_dir / "evaluations" / "000.json"
    clean = json.loads(path.read_text(encoding="utf-8"))
    # A claim's words may stand in its answer, or not: both ways of showing it are attacked.
    for version, response in (("in place", f"So {attack} it is"), ("elsewhere", attack * 2 + "x")):
        evil = poison(clean, attack)
        evil["examples"] = [
            dict(example, response=response, claims=example["claims"][:1]) for example in evil["examples"]
        ]
        path.write_text(json.dumps(evil), encoding="utf-8")
        (run_dir / "config.yaml").write_text(attack, encoding="utf-8", errors="replace")
        page = read(run_dir)
        assert not page.all("script"), version
        assert not page.all("iframe"), version
        assert not page.all("img"), version
        assert not [a for _, a in page.elements for name in a if name.startswith("on")], version
        assert {a["href"][0] for a in page.all("a") if a["href"]} == {"#"}, version
        words = re.sub(r"[\x00\ud800]", "", attack).split()
        assert all(word in page.text.replace("\ufffd", "") for word in words[:1]), version


@pytest.mark.parametrize("attack", ATTACKS)
def test_untrusted_text_does_not_change_the_page(attack: str) -> None:
    def elements(text: str) -> list[tuple[str, list[str]]]:
        claim = JudgedClaim("claim not in it", text, 0.2, 0.8, "rejected", None)
        example = Example("p", text, text, "x" + text, (claim,), (text,))
        statistics = {f"dropped/{text}": 3.0, f"seconds/{text}": 1.0, "pairs_kept": 2.0}
        evaluation = Evaluation(0, {"coverage": 0.5, text: 1.0}, (example,))
        run = Run(Path("somewhere"), text, (evaluation,), (statistics,), ())
        return [(tag, list(attributes)) for tag, attributes in Page(render(run)).elements]

    assert elements(attack) == elements("harmless")


def poison_shards(run_dir: Path, texts: dict[str, str]) -> None:
    """Questions, answers, claims and image paths of an iteration's shards, replaced by one text each."""
    for path in (run_dir / "iterations").glob("*/*.parquet"):
        table = parquet.read_table(path)
        for name in set(texts) & set(table.column_names):
            kind = table.schema.field(name).type
            value = [texts[name]] if pyarrow.types.is_list(kind) else texts[name]
            column = pyarrow.array([value] * len(table), type=kind)
            table = table.set_column(table.column_names.index(name), name, column)
        parquet.write_table(table, path)


@pytest.mark.parametrize("attack", [attack.replace("\ud800", "") for attack in ATTACKS])
@pytest.mark.parametrize("is_said", [True, False], ids=["in_place", "elsewhere"])
def test_untrusted_shards_do_not_change_the_page(make_run: Callable[..., Path], attack: str, is_said: bool) -> None:
    def elements(text: str) -> list[tuple[str, list[str]]]:
        run_dir = make_run(1)
        answer = f"So {text} it is." if is_said else "something else"
        names = ("question", "text", "verdict", "image_paths")
        poison_shards(run_dir, {**dict.fromkeys(names, text), "chosen": answer, "rejected": answer})
        page = read(run_dir)
        assert not page.all("script")
        assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
        return [(tag, list(attributes)) for tag, attributes in page.elements]

    assert elements(attack) == elements("harmless")


def test_without_escaping_the_page_would_change(make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "Environment", lambda **options: Environment(**options | {"autoescape": False}))
    run_dir = make_run(1)
    poison_shards(run_dir, {"chosen": "<script>alert(1)</script>"})
    assert read(run_dir).all("script")


def test_run_without_truth_shows_the_labelers_opinion(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(2)
    for path in (run_dir / "evaluations").glob("*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        data["metrics"] = {"rejected/response": 0.6 - 0.2 * data["num_iterations"], "length/words": 30.0}
        for example in data["examples"]:
            example["truth"] = None
            example["image_path"] = None
            example["claims"] = [dict(claim, truth=None) for claim in example["claims"]]
        path.write_text(json.dumps(data), encoding="utf-8")
    page = read(run_dir)
    assert "Answers with a rejected claim: 60.0% → 20.0%" in page.text
    assert "no truth is known" in page.text
    assert "hallucination/response" not in page.text
    assert not page.all("span", "truth-mark")
    assert not page.all("p", "truth")
    assert len(page.all("div", "no-image")) == 6


def test_run_before_its_first_iteration(make_run: Callable[..., Path]) -> None:
    page = read(make_run(0))
    assert "Answers that hallucinate: 85.2%" in page.text
    assert "→" not in page.text
    assert "no feedback is collected yet" in page.text
    assert not page.all("figure")
    assert len(page.all("article")) == 6


def test_run_without_metrics_and_shards_and_evaluations(fake_run: Any) -> None:
    fake_run.statistics(0, {"pairs_kept": 1234, "rejection_rate": 0.25})
    page = read(fake_run.run_dir)
    assert "Feedback of 1 iteration" in page.text
    assert "1,234" in page.text
    assert not page.all("article")
    assert not page.all("section", "training")


def test_flagged_shards_stand_in_the_table(fake_run: Any) -> None:
    fake_run.statistics(0, {"pairs_kept": 12, "labeler/flagged_shards": 3, "labeler/canary_accuracy": 0.5})
    page = read(fake_run.run_dir)
    (column,) = [cell["data-label"] for cell in page.all("td") if cell.get("data-label") == "Shards flagged"]
    assert column == "Shards flagged"
    assert "Canaries right" in page.text


def test_worse_is_called_worse(fake_run: Any) -> None:
    fake_run.evaluation(0, {"hallucination/response": 0.2, "coverage": 0.7})
    fake_run.evaluation(1, {"hallucination/response": 0.3, "coverage": 0.7})
    page = read(fake_run.run_dir)
    assert "▲ 10.0 points, worse" in page.text
    assert "no change" in page.text


def test_report_is_replaced_in_one_step(make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(0)
    path = write_report(run_dir)
    before = path.read_text(encoding="utf-8")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(run_dir)
    assert path.read_text(encoding="utf-8") == before
    assert list(path.parent.iterdir()) == [path]


def test_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run directory"):
        write_report(tmp_path)
    assert not (tmp_path / "report").exists()


def test_candidates_are_listed_and_the_chosen_one_is_named() -> None:
    """An epoch without weights of its own is the start of its iteration."""
    candidates = (
        (0.0, {"rejected/mention": 0.4}),
        (0.25, {"rejected/mention": 0.213}),
        (0.5, {"rejected/mention": 0.3}),
    )
    page = Page(render(Run(Path("run"), None, (), (), (), (Selection(1, "labeler", candidates, 1),))))
    for text in (
        "iteration 2, start",
        "iteration 2, epoch 0.25, chosen",
        "iteration 2, epoch 0.5",
        "21.3%",
        "Candidates",
    ):
        assert text in page.text
    assert page.text.count(", chosen") == 1
    assert "Candidates" not in Page(render(Run(Path("run"), None, (), (), ()))).text
