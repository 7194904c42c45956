#!/usr/bin/env bash
# nipype 1.11.0, seen 2026-11-29.
# Guess: `interface.run()` of a command line that exits with 1 raises, with what the command wrote to
#   stderr (as nipype's own `raise_exception` is written to do).
# Behaviour: the exit code is not looked at. Where the output of an earlier run is there, the call
#   returns as if all were well, and hands that file on; where it is not, the error is
#   FileNotFoundError about the output, without a word of what the command said. Only a Node looks at
#   the exit code.
# Output seen:
#   nothing there: FileNotFoundError: No such file or directory '.../a_out.txt' for output 'out_file' of a Copy interface
#   an earlier result there: returned, exit code 1, out_file a_out.txt holds 'of an earlier run'
# For a user: in a script look at `result.runtime.returncode`; in an interface of your own raise in
#   `_run_interface`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv v
v/bin/pip install --quiet nipype==1.11.0 numpy==2.4.6
NIPYPE_NO_ET=1 v/bin/python - 2>log <<'EOF' || { cat log >&2; exit 1; }
from pathlib import Path

from nipype.interfaces.base import CommandLine, CommandLineInputSpec, File, TraitedSpec


class Inputs(CommandLineInputSpec):
    in_file = File(exists=True, mandatory=True, argstr="%s", position=0)
    out_file = File(argstr="%s", position=1, name_source=["in_file"], name_template="%s_out.txt")


class Outputs(TraitedSpec):
    out_file = File(exists=True)


class Copy(CommandLine):
    _cmd = "sh -c 'echo the disk is full >&2; exit 1'"
    input_spec, output_spec = Inputs, Outputs


def run():
    return Copy(in_file=str(Path("a.txt").resolve()), terminal_output="allatonce").run()


Path("a.txt").write_text("x")
try:
    run()
    raise SystemExit("no error where nothing was written")
except FileNotFoundError as e:
    said = str(e).replace(str(Path.cwd()), "...")
    print(f"nothing there: {type(e).__name__}: {said}")
    assert "disk is full" not in said
Path("a_out.txt").write_text("of an earlier run")
found = run()
out = Path(found.outputs.out_file)
print(f"an earlier result there: returned, exit code {found.runtime.returncode},",
      f"out_file {out.name} holds {out.read_text()!r}")
assert found.runtime.returncode == 1
EOF
