"""Nothing of a stranger's runs, and nobody on the network can reach the engine."""

import json
import os
import shutil
import stat
from pathlib import Path

import psutil
import pytest

from quire import LLM, AsyncLLM, SamplingParams
from quire.core.config import Config
from quire.core.errors import ConfigError
from quire.plugins.demo import Demo

TRAP = """
open({marker!r}, "w").close()
class Trap: pass
"""


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "TrapForCausalLM"])
def test_code_of_a_repository_never_runs_unasked(tmp_path: Path, architecture: str) -> None:
    """With a trap behind every auto class that transformers knows."""
    folder = tmp_path / "model"
    shutil.copytree(Demo().folder(), folder)
    marker = tmp_path / "ran"
    for name in ("trap", "modeling", "configuration", "tokenization", "__init__"):
        (folder / f"{name}.py").write_text(TRAP.format(marker=str(marker)))
    autos = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoProcessor")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": dict.fromkeys(autos, "trap.Trap"), "architectures": [architecture]}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer_config.json", "generation_config.json"):
        path = folder / name
        values = json.loads(path.read_text()) if path.exists() else {}
        values["auto_map"] = {auto: ["trap.Trap", "trap.Trap"] for auto in autos}
        path.write_text(json.dumps(values))
    if architecture == "TrapForCausalLM":
        with pytest.raises(ConfigError, match="TrapForCausalLM"):
            LLM(folder, max_model_len=64)
    else:
        llm = LLM(folder, max_model_len=64)
        llm.generate("x", SamplingParams(max_tokens=2), use_tqdm=False)
    assert not marker.exists()


def listening(*processes: psutil.Process) -> set[object]:
    """Addresses of a network that these processes accept connections on."""
    return {
        connection.laddr
        for process in processes
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


async def test_the_engine_listens_where_only_this_user_can_reach_it() -> None:
    assert Config().server.host == "127.0.0.1"
    here = psutil.Process()
    # Servers of other tests may still be on their way out.
    others = set(here.children(recursive=True))
    before = listening(here)
    llm = await AsyncLLM.start(Config())
    try:
        children = set(here.children(recursive=True)) - others
        assert children
        assert listening(here, *children) == before
        sockets = {
            Path(connection.laddr)
            for connection in here.net_connections(kind="unix")
            if isinstance(connection.laddr, str) and "quire-" in connection.laddr
        }
        assert sockets
        for socket in sockets:
            folder = socket.parent.stat()
            assert stat.S_IMODE(folder.st_mode) == 0o700
            assert folder.st_uid == os.getuid()
    finally:
        await llm.shutdown()
    assert not any(socket.exists() for socket in sockets)
