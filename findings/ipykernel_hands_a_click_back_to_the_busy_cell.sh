#!/usr/bin/env bash
# ipykernel 7.4.0 (ipywidgets 8.1.9): a click that a frontend sends to a subshell is handled by the main shell, so only when the
# cell that runs there is over. JupyterLab 4.4 and later send all messages of widgets to a subshell, so that callbacks run beside
# a running cell (jupyterlab#17363). From 7.4 on the kernel sends them back to the shell from which the widget was last updated,
# which is the main one for every widget that a cell has shown. A "stop" button beside a training loop never stops it.
# Expected from memory (JEP 91, ipykernel 7.0): the callback runs in the subshell's thread, at once.
# Seen:  7.3.0: called beside the cell: 1 | 7.4.0: called beside the cell: 0, called behind it: 1
# Exits 1 if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/click.py" <<'PY'
from jupyter_client.manager import start_new_kernel

CELL = """
import time, ipywidgets
button, calls = ipywidgets.Button(), []
button.on_click(calls.append)
print("button", button.comm.comm_id, flush=True)
end = time.monotonic() + 4
while not calls and time.monotonic() < end:
    time.sleep(0.01)
print("called beside the cell:", len(calls))
"""
manager, client = start_new_kernel(kernel_name="python3")
client.wait_for_ready(timeout=60)
client.control_channel.send(client.session.msg("create_subshell_request"))
subshell = client.get_control_msg(timeout=30)["content"]["subshell_id"]


def click(message):
    """Click once the button is there, in the subshell, as JupyterLab does; print what the cell prints."""
    if message["msg_type"] != "stream":
        return
    text = message["content"]["text"]
    if not text.startswith("button"):
        return print(text, end="")
    content = {"comm_id": text.split()[1], "data": {"method": "custom", "content": {"event": "click"}}}
    sent = client.session.msg("comm_msg", content)
    sent["header"]["subshell_id"] = subshell
    client.shell_channel.send(sent)


client.execute_interactive(CELL, output_hook=click, timeout=60)
client.execute_interactive("print('called behind it:', len(calls))", output_hook=click, timeout=60)
client.stop_channels()
manager.shutdown_kernel(now=True)
PY
for version in 7.3.0 7.4.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "ipykernel==$version" ipywidgets==8.1.9
    "$folder/$version/bin/python" "$folder/click.py" > "$folder/$version.txt" 2> /dev/null
    echo "$version: $(tr '\n' ' ' < "$folder/$version.txt")"
done
grep -q "beside the cell: 1" "$folder/7.3.0.txt" && grep -q "behind it: 1" "$folder/7.3.0.txt"
grep -q "beside the cell: 0" "$folder/7.4.0.txt" && grep -q "behind it: 1" "$folder/7.4.0.txt"
