"""Core, core and one plugin, all plugins, a broken one among them: each from wheels in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from environments import PROJECTS, Environment
from judges import require

from pydump.testing.readers import read_elf

#: What lies in plugins without an entry point is a library of theirs.
PLUGINS = [
    project.name
    for project in PROJECTS
    if project.parent.name == "plugins" and "[project.entry-points.pydump]" in (project / "pyproject.toml").read_text()
]

#: Each architecture's ``e_machine``. Source: the ELF specification's list of machines, as in Linux's elf-em.h.
MACHINES = {
    "arch-aarch64": {"aarch64": 183, "arm": 40},
    "arch-ppc64": {"ppc64": 21, "ppc64le": 21},
    "arch-riscv": {"riscv64": 243, "riscv32": 243},
    "arch-s390x": {"s390x": 22},
    "arch-x86-64": {"x86_64": 62, "i386": 3},
}
#: The library that does each compressor's work.
PRODUCERS = {
    "compressor-lzo": "lzallright",
    "compressor-snappy": "python-snappy",
    "compressor-zlib": "zlib-ng",
    "compressor-zstd": "zstandard",
}
ROUND_TRIP = """
import sys
from pydump.registry import installed
compressor = installed().compressor(sys.argv[1], {})
page = bytes(range(256)) * 16
stream = compressor.compress(page)
print(compressor.decompress(stream, len(page)) == page, len(stream) < 4096, compressor.producer)
"""


@pytest.fixture
def elf(qemu: object) -> Path:
    """QEMU's ELF dump of a small guest."""
    return qemu("nano-x86_64", "elf")  # type: ignore[operator,no-any-return]


@pytest.fixture
def environment(tmp_path: Path, wheels: Path) -> Environment:
    """An empty one."""
    return Environment(tmp_path / "venv", wheels)


def works(done: subprocess.CompletedProcess[str]) -> str:
    """What a command printed that had nothing to complain of."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def listed(environment: Environment) -> dict[str, str]:
    """``pydump plugins``: each one's name, and the distribution and classes behind it."""
    lines = works(environment.pydump("plugins")).splitlines()
    return {name: " ".join(rest.split()) for name, _, rest in (line.partition(" ") for line in lines)}


def test_core_alone_works_and_says_what_it_needs(environment: Environment, elf: Path, tmp_path: Path) -> None:
    environment.install("pydump-core")
    assert listed(environment).keys() == {"core"}
    assert "Usage: pydump" in works(environment.pydump("--help"))
    assert "7f 45 4c 46" in works(environment.pydump("read", f"raw:{elf}[0:]@0x1000", "0x1000", "4", "--hex"))
    for arguments, code, hint in (
        (("info", elf), 1, "pip install pydump-format-elf"),
        (("dump", f"raw:{elf}@0", tmp_path / "out"), 2, "pip install pydump-format-kdump"),
        (("--arch", "riscv32"), 2, "pip install pydump-arch-riscv"),
        (("info", "qmp:/run/vm.sock"), 2, "pip install pydump-source-qemu"),
        (("info", "gdb:127.0.0.1:1234"), 2, "pip install pydump-source-gdb"),
    ):
        refused = environment.pydump(*arguments)
        assert (refused.returncode, refused.stderr.count("\n")) == (code, 1), refused.stderr
        assert hint in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("plugin", PLUGINS)
def test_core_and_one_plugin(plugin: str, environment: Environment, elf: Path, tmp_path: Path) -> None:
    environment.install(f"pydump-{plugin}")
    others = listed(environment)
    assert others.pop("core")
    plugin_listed = others.pop(plugin)
    assert plugin_listed.startswith(f"pydump-{plugin} ")
    assert "broken" not in plugin_listed
    assert not others

    role = plugin.partition("-")[0]
    cases = {
        "arch": an_architecture,
        "compressor": a_compressor,
        "executor": an_executor,
        "filter": a_filter,
        "format": a_format,
        "source": a_source,
        "storage": a_storage,
    }
    cases[role](plugin, environment, elf, tmp_path)


def an_architecture(plugin: str, environment: Environment, elf: Path, tmp_path: Path) -> None:
    """It tells an architecture's facts; to write a dump it takes a format."""
    for name, machine in MACHINES[plugin].items():
        assert json.loads(works(environment.pydump("--arch", name, "--json")))["machine"] == machine
        refused = environment.pydump("dump", f"raw:{elf}@0", tmp_path / "out", "--format", "elf", "--arch", name)
        assert refused.stderr == "pydump: error: unknown format 'elf'; available: none; pip install pydump-format-elf\n"


def a_compressor(plugin: str, environment: Environment, elf: Path, tmp_path: Path) -> None:
    """It compresses a page; to write a dump it takes a format."""
    name = plugin.removeprefix("compressor-")
    said = works(environment.run("python", "-c", ROUND_TRIP, name))
    assert said.startswith(f"True True {PRODUCERS[plugin]} ")
    refused = environment.pydump("dump", f"raw:{elf}@0", tmp_path / "out", "--compression", name)
    assert refused.stderr == "pydump: error: unknown format 'kdump'; available: none; pip install pydump-format-kdump\n"


def test_extras_bring_the_faster_libraries(environment: Environment, wheels: Path) -> None:
    require(list(wheels.glob("python_lzo-*.whl")), "python-lzo", "apt install gcc python3-dev liblzo2-dev")
    environment.install("pydump-compressor-zlib", "pydump-compressor-lzo")
    before = json.loads(works(environment.pydump("plugins", "--json")))["plugins"]
    assert [name for row in before for name in row["advice"]] == ["lzo"]
    environment.install("pydump-suite[isal,lzo]")
    after = json.loads(works(environment.pydump("plugins", "--json")))["plugins"]
    producers = {name: producer.split()[0] for row in after for name, producer in row["producers"].items()}
    assert (producers["zlib"], producers["lzo"]) == ("isal", "python-lzo")
    assert [name for row in after for name in row["advice"]] == []


def a_format(plugin: str, environment: Environment, elf: Path, tmp_path: Path) -> None:
    """It writes and reads its files, and says which compressor is missing."""
    source = elf
    options = ("--format", plugin.removeprefix("format-"), "--compression", "none")
    if plugin != "format-elf":
        refused = environment.pydump("info", elf)
        assert refused.stderr.endswith("pip install pydump-format-elf\n")
        if plugin in ("format-qemu", "format-vmware"):  # read only
            if plugin == "format-qemu":
                saved = Path(__file__).parents[1] / "data/containers/running-xz.save"
                shown = environment.pydump("info", saved)
                assert shown.returncode == 0, shown.stderr
                assert "libvirt save image" in shown.stdout
            return
        if plugin == "format-raw":  # written, and read by core
            works(
                environment.pydump("dump", f"raw:{elf}[0:]@0x1000", tmp_path / "out", "--format", "raw", "--raw-packed")
            )
            works(environment.pydump("compare", f"raw:{elf}[0:]@0x1000", f"raw:{tmp_path}/out.map"))
            return
        source = tmp_path / "source"
        subprocess.run([sys.executable, "-m", "pydump", "-q", "dump", elf, source, *options], check=True, timeout=120)
    if plugin == "format-kdump":
        refused = environment.pydump("dump", source, tmp_path / "out")
        assert refused.stderr == (
            "pydump: error: unknown compressor 'zlib'; available: none; pip install pydump-compressor-zlib\n"
        )
    done = environment.pydump("dump", source, tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    works(environment.pydump("verify", tmp_path / "out"))
    works(environment.pydump("compare", source, tmp_path / "out"))
    read = environment.run("pydump", "read", tmp_path / "out", "0xf0000", "64", "--hex")
    assert works(read).split()[1:17] == [f"{byte:02x}" for byte in read_elf(elf.read_bytes()).read(0xF0000, 16)]


def an_executor(plugin: str, environment: Environment, elf: Path, tmp_path: Path) -> None:
    """There is no cluster, and it says how one is named."""
    refused = environment.pydump("verify", elf, "--executor", "dask:somewhere")
    assert refused.returncode == 2
    assert refused.stderr.startswith("pydump: error: dask:somewhere is not a cluster; write dask:tcp://")


def a_filter(plugin: str, environment: Environment, elf: Path, tmp_path: Path) -> None:
    """Without a format nothing can be dumped; what it provides is known all the same."""
    found = json.loads(works(environment.pydump("plugins", "--json")))["plugins"]
    assert [one["provides"] for one in found if one["plugin"] == plugin] == [["filter linux"]]


def a_source(plugin: str, environment: Environment, elf: Path, tmp_path: Path) -> None:
    """Nobody listens at the socket, and it says how somebody would; a library that is missing is named."""
    sock = f"{tmp_path}/vm.sock"
    option, name, code, said = {
        "source-gdb": ("--gdb-ram", f"gdb:{sock}", 1, f"cannot connect to {sock}: No such file or directory"),
        "source-libvirt": (
            "--libvirt-pause",
            "libvirt:vm",
            2,
            "libvirt: needs libvirt-python, which is not installed; ",
        ),
        "source-qemu": ("--qemu-access", f"qmp:{sock}", 1, f"cannot connect to {sock}: No such file or directory"),
    }[plugin]
    assert option in works(environment.pydump("dump", "--help"))
    refused = environment.pydump("dump", name, tmp_path / "out")
    assert refused.returncode == code
    assert refused.stderr.startswith(f"pydump: error: {said}")


def a_storage(plugin: str, environment: Environment, elf: Path, tmp_path: Path) -> None:
    """Its libraries are extras: it says which one is missing."""
    refused = environment.pydump("info", "s3://bucket/vmcore")
    assert refused.returncode == 2
    assert refused.stderr == (
        "pydump: error: s3:// needs a library that is not installed; pip install 'pydump-storage-fsspec[s3]'\n"
    )
    assert environment.pydump("info", "memory://nothing").stderr == (
        "pydump: error: cannot read memory://nothing: it is not there\n"
    )


def test_every_plugin_here_has_a_case() -> None:
    assert {
        *MACHINES,
        *PRODUCERS,
        "executor-dask",
        "filter-linux",
        "format-avml",
        "format-elf",
        "format-kdump",
        "format-lime",
        "format-qemu",
        "format-raw",
        "format-vmware",
        "format-windmp",
        "source-gdb",
        "source-libvirt",
        "source-qemu",
        "storage-fsspec",
    } == set(PLUGINS)


def test_what_is_missing_is_named_and_works_once_installed(environment: Environment, elf: Path, tmp_path: Path) -> None:
    environment.install("pydump-format-elf", "pydump-format-kdump")
    done = environment.pydump("dump", elf, tmp_path / "plain", "--compression", "none")
    assert done.returncode == 0
    assert done.stderr.startswith("pydump: warning: no architecture plugin knows this guest (e_machine 62)")
    back = environment.pydump("dump", tmp_path / "plain", tmp_path / "back", "--format", "elf")
    assert back.returncode == 2  # an ELF file names its machine, and a kdump's name for it takes the plugin to read
    assert "--arch" in back.stderr

    refused = environment.pydump("dump", elf, tmp_path / "out", "--compression", "lzo")
    assert refused.returncode == 2
    assert refused.stderr.endswith(
        "pydump: error: unknown compressor 'lzo'; available: none; pip install pydump-compressor-lzo\n"
    )
    assert not (tmp_path / "out").exists()
    environment.install("pydump-compressor-lzo", "pydump-arch-x86-64")
    works(environment.pydump("dump", elf, tmp_path / "out", "--compression", "lzo"))
    works(environment.pydump("compare", elf, tmp_path / "out"))


def test_everything(environment: Environment, qemu: object, tmp_path: Path) -> None:
    elf = qemu("linux-x86_64", "elf")  # type: ignore[operator]
    environment.install("pydump-suite")
    found = listed(environment)
    assert found.keys() == {"core", *PLUGINS} - {"executor-dask"}  # an extra
    for name in ("zlib", "lzo", "snappy", "zstd", "none"):
        out = tmp_path / name
        works(environment.pydump("dump", elf, out, "--compression", name))
        works(environment.pydump("compare", elf, out))
    works(environment.pydump("dump", tmp_path / "zstd", tmp_path / "back", "--format", "elf"))
    works(environment.pydump("verify", tmp_path / "back"))
    works(environment.pydump("map", elf, "-o", tmp_path / "map.png"))
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


BROKEN = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "pydump-compressor-broken"
version = "1.0"
dependencies = ["pydump-core"]

[project.entry-points.pydump]
compressor-broken = "pydump_compressor_broken"
""",
    "pydump_compressor_broken.py": 'raise ImportError("libbroken.so.1: cannot open shared object file")\n',
}


def test_a_broken_plugin_beside_good_ones(environment: Environment, elf: Path, tmp_path: Path) -> None:
    for name, text in BROKEN.items():
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken" / name).write_text(text)
    environment.install("pydump-suite", tmp_path / "broken")
    reason = "ImportError: libbroken.so.1: cannot open shared object file"

    found = listed(environment)
    assert reason in found.pop("compressor-broken")
    assert found.keys() == {"core", *PLUGINS} - {"executor-dask"}  # an extra of the suite
    assert not any("ImportError" in rest for rest in found.values())

    done = environment.pydump("dump", elf, tmp_path / "out", "--compression", "zstd")
    assert done.returncode == 0
    assert done.stderr == f"pydump: warning: plugin compressor-broken does not work: {reason}\n"
    assert works(environment.pydump("-q", "compare", elf, tmp_path / "out")) == ""

    refused = environment.pydump("dump", elf, tmp_path / "again", "--compression", "broken")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].endswith(f"it is installed but broken: {reason}")

    strict = environment.pydump("dump", elf, tmp_path / "again", PYDUMP_STRICT_PLUGINS="1")
    assert strict.returncode == 1
    assert strict.stderr == (
        f"pydump: error: plugin compressor-broken: {reason}; pip uninstall pydump-compressor-broken, or fix it\n"
    )
    assert not (tmp_path / "again").exists()
