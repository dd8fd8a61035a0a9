"""Compiled programs kept between runs: they move no number, and no cache that fails ends a run."""

import errno
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import jax
import jaxlib.version
import pytest
from alone import WITHOUT_JAX
from kills import contents

from popgd.problem.errors import SettingError
from popgd.runs import cache
from popgd.runs import command as run

#: What a run starts with, and then one program, over and over: stored, found, damaged, and not to
#: be stored.
PROGRAM = (
    WITHOUT_JAX
    + """
import resource
from pathlib import Path
import jax
from popgd.runs import cache
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event)
    if event.endswith("cache_hits") else None)
cache.start()
directory = Path(jax.config.jax_compilation_cache_dir)

def compute():
    jax.clear_caches()
    found.clear()
    value = float(jax.jit(lambda x: 2 * x + 1)(3.0))
    print(value, len(found) > 0, len(list(directory.glob("*-cache"))) > 0)

compute()
compute()
for entry in directory.glob("*-cache"):
    entry.write_bytes(entry.read_bytes()[:-9])
compute()
compute()
for entry in directory.glob("*-cache"):
    entry.unlink()
# A disk that is full after 64 bytes of each file
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
compute()
"""
)
#: What is slow to import; a bad setting is answered without any of it.
SLOW_TO_IMPORT = {
    "diffrax",
    "equinox",
    "lineax",
    "optimistix",
    "matplotlib",
    "scipy",
    "pandas",
    "sklearn",
    "torch",
}
#: A run of a few seconds.
SMALL = [
    "theorem=4.2",
    "target=unnormalised",
    "spectrum=[3,2,1]",
    "samples=1024",
    "sampled_steps=20",
    "batch=64",
]


def python(*command: str, cwd: Path, **own: str) -> subprocess.CompletedProcess:
    """A process with no settings of JAX but these."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_", "TF_", cache.WORD))
    }
    clean |= {"PYTHONPATH": str(Path(__file__).parents[1]), **own}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=clean, capture_output=True, text=True, timeout=600
    )


@pytest.fixture
def settings(monkeypatch):
    """JAX before it was told of a cache, and as it was afterwards; this process goes on with the
    cache that it has.
    """
    names = (
        "jax_compilation_cache_dir",
        "jax_enable_compilation_cache",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_enable_xla_caches",
    )
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv(cache.WORD, "")
    jax.config.update("jax_compilation_cache_dir", None)
    with warnings.catch_warnings():
        yield jax.config
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_damaged_entry_or_a_full_disk_costs_one_line_and_no_run(tmp_path):
    """And what is damaged is written anew, or it would be compiled afresh for ever."""
    done = python("-c", PROGRAM, cwd=tmp_path, **{cache.WORD: str(tmp_path / "kept")})
    assert done.returncode == 0, done.stderr
    stored, found, damaged, mended, full = done.stdout.splitlines()
    assert (
        stored == damaged == "7.0 False True"
        and found == mended == "7.0 True True"
        and full == "7.0 False False"
    )
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(
        f"popgd: compiled programs cannot be read or kept in {tmp_path}/kept/xla-"
    )


def test_nothing_slow_is_imported_before_its_time(tmp_path):
    tell = "print(*{name.partition('.')[0] for name in sys.modules})"
    done = python(
        "-c",
        f"import sys, popgd.run\n{tell}\npopgd.run.main(['theorem=4.1', 'd=0'])\n{tell}",
        cwd=tmp_path,
    )
    for line in done.stdout.splitlines():
        assert "popgd" in line.split() and not SLOW_TO_IMPORT & set(line.split())
    assert done.stdout.count("\n") == 2, done.stderr


@pytest.mark.parametrize("words", [["cache=off"], ["cache=~/there"], ["cache=here"]], ids=str)
def test_the_word_is_for_this_process_and_those_that_it_starts(words, monkeypatch):
    monkeypatch.setenv(cache.WORD, "")
    assert cache.told(["theorem=4.1", *words, "out=run"]) == ["theorem=4.1", "out=run"]
    wanted = {
        "cache=off": cache.OFF,
        "cache=~/there": str(Path.home() / "there"),
        "cache=here": str(Path.cwd() / "here"),
    }
    assert os.environ[cache.WORD] == wanted[words[0]]


def test_a_word_without_a_directory_is_bad_input(monkeypatch, capsys):
    monkeypatch.setenv(cache.WORD, "")
    with pytest.raises(SettingError, match="a directory was wanted, or off"):
        cache.told(["cache="])
    assert run.main(["theorem=4.1", "cash=off"]) == run.BAD_INPUT
    assert "did you mean cache?" in capsys.readouterr().err
    assert os.environ[cache.WORD] == ""


def test_it_is_where_caches_of_the_user_are(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.start()
    assert settings.jax_compilation_cache_dir == str(tmp_path / "popgd" / f"xla-{cache.kind()}")
    assert (
        Path(settings.jax_compilation_cache_dir).is_dir() and settings.jax_enable_compilation_cache
    )
    assert settings.jax_persistent_cache_min_compile_time_secs == 0


def test_the_conventions_of_systems(monkeypatch):
    home = Path.home()
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache.default({"XDG_CACHE_HOME": "/there"}) == Path("/there/popgd")
    assert (
        cache.default({"XDG_CACHE_HOME": "relative"})
        == cache.default({})
        == home / ".cache" / "popgd"
    )
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache.default({}) == home / "Library" / "Caches" / "popgd"
    monkeypatch.setattr(sys, "platform", "win32")
    assert cache.default({"LOCALAPPDATA": "/local"}) == Path("/local/popgd/Cache")


def test_cache_is_off(settings, monkeypatch):
    monkeypatch.setenv(cache.WORD, cache.OFF)
    cache.start()
    assert not settings.jax_enable_compilation_cache and settings.jax_compilation_cache_dir is None


def test_a_directory_that_jax_was_told_stays_unless_another_is_named(
    settings, tmp_path, monkeypatch
):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    cache.start()
    assert (
        settings.jax_compilation_cache_dir == str(tmp_path / "theirs")
        and list(tmp_path.iterdir()) == []
    )
    monkeypatch.setenv(cache.WORD, str(tmp_path / "named"))
    cache.start()
    show = warnings.showwarning
    cache.start()  # the next job of a sweep
    assert warnings.showwarning is show
    assert Path(settings.jax_compilation_cache_dir).parent == tmp_path / "named"


def no_home():
    raise RuntimeError("Could not determine home directory.")


def read_only(dir):  # a mode of the directory does not keep root from writing
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))


@pytest.mark.parametrize("fault", ["a file", "read-only", "no home"])
def test_where_there_can_be_none_one_line_says_so_once(
    settings, tmp_path, monkeypatch, capsys, fault
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if fault == "a file":
        (tmp_path / "popgd").touch()
    elif fault == "read-only":
        monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        monkeypatch.setattr(Path, "home", no_home)
    cache.start()
    cache.start()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(
        "popgd: compiled programs cannot be read or kept in "
    )
    assert settings.jax_compilation_cache_dir is None


def test_each_kind_of_machine_has_its_own(tmp_path, monkeypatch):
    """Instructions that another model has kill a process (jax-ml/jax#38445); its clock does not."""
    processors = tmp_path / "cpuinfo"
    monkeypatch.setattr(cache, "PROCESSORS", str(processors))

    def kind(flags: str = "avx avx2", clock: int = 1) -> str:
        one = f"vendor_id\t: x\nmodel name\t: y\ncpu MHz\t\t: {clock}\nflags\t\t: {flags}\n\n"
        processors.write_text(one + one)
        return cache.kind()

    plain = kind()
    assert kind(clock=2) == plain
    kinds = [plain, kind("avx"), kind("avx avx2 avx512f")]
    for name, value in (("cores", lambda: 10**6), ("PROCESSORS", str(tmp_path / "none"))):
        with monkeypatch.context() as patch:
            patch.setattr(cache, name, value)
            kinds.append(cache.kind())
    monkeypatch.setattr(jaxlib.version, "__version__", "0.0")
    kinds.append(kind())
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=SSE4_2")
    kinds.append(kind())
    assert len(set(kinds)) == len(kinds)


def test_the_oldest_entries_go(tmp_path):
    for age in range(10):
        entry = tmp_path / f"xla-{age % 2}" / f"jit_f-{age}-cache"
        entry.parent.mkdir(exist_ok=True)
        entry.write_bytes(bytes(100))
        os.utime(entry, (10**9 - age, 10**9 - age))
    other = tmp_path / "xla-0" / "notes"
    other.write_bytes(bytes(1000))
    cache.prune(tmp_path, most=1000)
    assert len(list(tmp_path.glob(cache.ENTRIES))) == 10
    cache.prune(tmp_path, most=999)
    assert sorted(int(entry.name.split("-")[1]) for entry in tmp_path.glob(cache.ENTRIES)) == [
        0,
        1,
        2,
        3,
    ]
    assert other.exists()


@pytest.mark.slow
def test_what_was_compiled_before_moves_no_bit(tmp_path):
    """Nor does what damaged entries leave, and a finished run is judged afresh with either."""
    kept, lines = tmp_path / "kept", {}
    for name, word in (
        ("filled", f"cache={kept}"),
        ("found", f"cache={kept}"),
        ("off", "cache=off"),
        ("garbage", f"cache={kept}"),
    ):
        for entry in kept.glob(cache.ENTRIES) if name == "garbage" else ():
            entry.write_bytes(b"garbage")
        done = python("-m", "popgd.run", *SMALL, word, f"out={name}", cwd=tmp_path)
        assert done.returncode in run.EXIT.values(), done.stderr
        lines[name] = done.stderr
    assert lines.pop("garbage").count("\n") == 1 and set(lines.values()) == {""}
    assert len(list(kept.glob(cache.ENTRIES))) > 20
    bits = contents(tmp_path / "filled")
    assert set(bits) >= {"report.json", "trajectory.npz"}
    for name in ("found", "off", "garbage"):
        assert contents(tmp_path / name) == bits
    again = python("-m", "popgd.run", "recheck=off", f"cache={kept}", cwd=tmp_path)
    assert again.returncode == 0 and again.stderr == "", again
