from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlaifv.records import Judgement, Pair
from rlaifv.report.pairs import read_pairs
from rlaifv.stages.dividers.rules import to_claims
from rlaifv.store.shards import read_shard, write_shard


def test_pairs_come_with_their_prompt_and_judged_claims(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(1)
    pairs = read_pairs(run_dir, 0, num_pairs=3)
    assert [pair.prompt_id for pair in pairs] == ["train-0", "train-2", "train-4"]
    for pair in pairs:
        assert pair.question
        assert Path(pair.image_path).is_file()
        assert pair.chosen.score > pair.rejected.score
        for side in (pair.chosen, pair.rejected):
            assert [claim.text for claim in side.claims] == to_claims(side.text)
            assert -side.score == sum(claim.verdict == "rejected" for claim in side.claims)
            assert all(claim.p_yes is not None and claim.truth is None for claim in side.claims)


def test_each_prompt_shows_one_pair(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(1)
    path = run_dir / "iterations" / "000" / "pairs-00000.parquet"
    pairs = read_shard(path, Pair)
    write_shard(path, [pair for pair in pairs for _ in range(2)], Pair)
    shown = [pair.prompt_id for pair in read_pairs(run_dir, 0, num_pairs=99)]
    assert shown == [pair.prompt_id for pair in pairs]


def test_empty_first_shard_is_passed_over(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(1)
    folder = run_dir / "iterations" / "000"
    (folder / "pairs-00000.parquet").rename(folder / "pairs-00001.parquet")
    write_shard(folder / "pairs-00000.parquet", [], Pair)
    assert len(read_pairs(run_dir, 0, num_pairs=2)) == 2


def test_missing_judgements_leave_claims_unknown(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(1)
    write_shard(run_dir / "iterations" / "000" / "judgements-00000.parquet", [], Judgement)
    (pair,) = read_pairs(run_dir, 0, num_pairs=1)
    assert {claim.verdict for claim in pair.chosen.claims} == {"unknown"}


def test_iteration_without_shards_has_no_pairs(fake_run: Any) -> None:
    assert read_pairs(fake_run.run_dir, 0, num_pairs=3) == ()
