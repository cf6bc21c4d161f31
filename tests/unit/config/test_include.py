"""`include`: what other files hold stands as if it were in the first one, and each thing once."""

from __future__ import annotations

from pathlib import Path

import pytest

from anycast.config.files import read_regular
from anycast.config.include import DEEPEST, MOST_FILES
from anycast.config.load import load, load_kept, load_with_texts, loads
from anycast.config.loaded import Loaded
from anycast.config.problem import ConfigError

MAIN = "bgp: {router_id: 10.2.1.1}\ninclude: "
COMMON = "bgp: {local_as: 65001, neighbors: {address: 10.2.1.254, remote_as: 65000}}\n"
VIP = "vips: {%s: {address: 192.0.2.%d, port: 80, servers: 10.9.2.1}}\n"


def write(folder: Path, files: dict[str, str]) -> Loaded:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return load(folder / "anycast.yaml", hostname="lb1")


def problems(folder: Path, files: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        write(folder, files)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def test_files_that_are_included_are_one_configuration(tmp_path: Path) -> None:
    loaded = write(
        tmp_path,
        {
            "anycast.yaml": MAIN + "[common/all.yaml, 'vips.d/*.yaml']\n",
            "common/all.yaml": COMMON + "include: more.yaml\n",
            "common/more.yaml": "timing: {drain: 5s}\n",  # relative to the file that names it
            "vips.d/b.yaml": VIP % ("b", 2),
            "vips.d/a.yaml": VIP % ("a", 1),
            "vips.d/.hidden.yaml": "nonsense",
            "vips.d/c.yaml~": "nonsense",
            "conf.d/d.yaml": VIP % ("d", 4),
        },
    )
    assert [vip.name for vip in loaded.config.vips] == ["a", "b", "d"]
    assert (loaded.config.bgp.local_as, loaded.config.timing.drain) == (65001, 5.0)
    assert {Path(file).name for file in loaded.files} == {
        *("anycast.yaml", "all.yaml", "more.yaml", "a.yaml", "b.yaml", "d.yaml")
    }


def test_an_included_file_that_changes_is_another_configuration(tmp_path: Path) -> None:
    files = {"anycast.yaml": MAIN + "common.yaml\n", "common.yaml": COMMON}
    before = write(tmp_path, files).digest
    assert write(tmp_path, {**files, "common.yaml": COMMON + "# a comment\n"}).digest != before


def test_what_names_nothing_is_a_problem(tmp_path: Path) -> None:
    text = MAIN + "[nowhere.yaml, 'vips.d/*.yaml']\n" + COMMON.replace("bgp", "bgp2")
    found = problems(tmp_path, {"anycast.yaml": text})
    assert found[0].startswith(
        "anycast.yaml:2:11: include[0]: no file is named 'nowhere.yaml' (the path is taken"
    )
    assert found[1].startswith("anycast.yaml:2:25: include[1]: no file is named 'vips.d/*.yaml'")


def test_what_stands_in_two_files_is_a_problem_with_both_places(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        {
            "anycast.yaml": MAIN + "[common.yaml, other.yaml]\nsysctls: check\n",
            "common.yaml": COMMON.replace("{local_as", "{router_id: 10.2.1.9, local_as")
            + "sysctls: check\n"
            + VIP % ("a", 1),
            "other.yaml": VIP % ("a", 2),
        },
    )
    assert found == [
        "common.yaml:1:7: bgp.router_id: this is written already, at anycast.yaml:1:7 (keep one of them)",
        "common.yaml:2:1: sysctls: this is written already, at anycast.yaml:3:1 (keep one of them)",
        "other.yaml:1:8: vips.a: there is a vip of this name already, at common.yaml:3:8 (rename one of them)",
    ]


def test_a_mistake_in_an_included_file_has_its_place_there(tmp_path: Path) -> None:
    files = {"anycast.yaml": MAIN + "common.yaml\n", "common.yaml": COMMON + "timing:\n  drain: long\n"}
    (found,) = problems(tmp_path, files)
    assert found.startswith("common.yaml:3:10: timing.drain: 'long' is not a time")


def test_files_cannot_include_one_another_in_a_circle(tmp_path: Path) -> None:
    files = {"anycast.yaml": MAIN + "common.yaml\n", "common.yaml": COMMON + "include: ./anycast.yaml\n"}
    (found,) = problems(tmp_path, files)
    assert found.startswith("common.yaml:2:10: include: anycast.yaml includes itself, by way of this line")


def test_a_file_is_included_once_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "link.yaml").symlink_to("common.yaml")
    files = {"anycast.yaml": MAIN + "[common.yaml, link.yaml]\n", "common.yaml": COMMON}
    (found,) = problems(tmp_path, files)
    assert found.startswith("anycast.yaml:2:24: include[1]: link.yaml is included already")


def test_there_is_a_limit_to_depth_and_to_files(tmp_path: Path) -> None:
    chain = {f"{n}.yaml": f"include: {n + 1}.yaml\n" for n in range(DEEPEST + 3)}
    (found,) = problems(tmp_path, {"anycast.yaml": MAIN + "0.yaml\n" + "", **chain})[:1]
    assert "more than 8 files include one another" in found
    many = {f"many/{n}.yaml": "checks: {}\n" for n in range(MOST_FILES + 2)}
    found = problems(tmp_path, {"anycast.yaml": MAIN + "many/*.yaml\n", **many})[0]
    assert "more than 1000 files are included" in found


def test_what_is_no_file_is_a_problem_of_the_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (found, *_) = problems(tmp_path, {"anycast.yaml": MAIN + "sub\n"})
    assert found == (
        "anycast.yaml:2:10: include: sub cannot be read: it is a directory, not a file (check its path and permissions)"
    )


def test_a_text_includes_nothing_and_neither_does_a_file_in_conf_d(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a text that is no file includes nothing"):
        loads(COMMON.replace("{local", "{router_id: 10.2.1.1, local") + "include: /etc/passwd\n")
    files = {
        "anycast.yaml": COMMON.replace("{local", "{router_id: 10.2.1.1, local"),
        "conf.d/a.yaml": "include: b.yaml\n",
    }
    assert "a file in conf.d cannot hold this" in problems(tmp_path, files)[0]


def test_texts_that_were_kept_need_no_file_any_more(tmp_path: Path) -> None:
    files = {
        "anycast.yaml": MAIN + "[common.yaml, 'vips.d/*.yaml', conf.d/.own.yaml]\n",
        "conf.d/.own.yaml": "node: {interface: lan0}\n",  # not one of conf.d: those have no such section
        "common.yaml": COMMON + "include: more/*.yaml\n",
        "more/timing.yaml": "timing: {drain: 5s}\n",
        "vips.d/a.yaml": VIP % ("a", 1),
        "conf.d/d.yaml": VIP % ("d", 4),
    }
    there = write(tmp_path, files)
    _, texts = load_with_texts(tmp_path / "anycast.yaml", hostname="lb1")
    for name in files:
        (tmp_path / name).unlink()
    kept = load_kept(texts, hostname="lb1")
    assert (kept.config, kept.digest) == (there.config, there.digest)


def test_an_included_file_that_is_written_meanwhile_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"anycast.yaml": MAIN + "common.yaml\n", "common.yaml": COMMON, "conf.d/a.yaml": VIP % ("a", 1)}
    write(tmp_path, files)
    times: list[Path] = []

    def half_written(file: Path, limit: int) -> bytes:
        data = read_regular(file, limit)
        if file.name == "common.yaml":
            times.append(file)
            if len(times) == 1:
                file.write_text(COMMON)  # whoever wrote the half goes on
                return data[:9]
        return data

    monkeypatch.setattr("anycast.config.load.read_regular", half_written)
    assert load(tmp_path / "anycast.yaml", hostname="lb1").config.bgp.local_as == 65001
    assert len(times) == 2
