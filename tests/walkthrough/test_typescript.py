"""The TypeScript call that ``relay up`` prints, pasted as it stands."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tests.support.processes import clean_environment
from tests.walkthrough.conftest import Up

MODULES = Path(__file__).parents[1] / "typescript" / "node_modules"


async def test_made_twice_the_second_call_reads_the_cache(up: Up, tmp_path: Path) -> None:
    printed = re.search(r"^--- TypeScript ---\n(.*?usage\);\n)", up.process.output, re.MULTILINE | re.DOTALL)
    assert printed
    program = tmp_path / "call.mjs"
    program.write_text(printed[1])
    (tmp_path / "node_modules").symlink_to(MODULES)
    await node(program)
    second = await node(program)
    assert re.search(r"cache_read_input_tokens: [1-9]", second)


async def node(program: Path) -> str:
    assert MODULES.is_dir(), "the SDK is not installed: run tests/support/setup.sh"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "node", str(program), stdout=pipe, stderr=asyncio.subprocess.STDOUT, env=clean_environment()
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()
