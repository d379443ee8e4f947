"""What runs the documentation finds what is wrong with a page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pages

GOOD = """
<!-- decimals vary -->

```python
# count.py
import time

for number in range(1000):
    print("number", number)
    time.sleep(0.01)
```

```console
$ python count.py
number 0
...
number 5
^C
...
KeyboardInterrupt
```

```diff
# count.py
-for number in range(1000):
+for number in range(2):
     print("number", number)
```

- in a list

  ```console
  $ python count.py && \\
    echo done
  number 0
  number 1
  done
  $ python -m http.server 8080 --bind 127.0.0.1 &
  Serving HTTP on 127.0.0.1 port ...
  $ python -c "import socket; socket.create_connection(('127.0.0.1', 8080))"
  ```

```python
print("took", 0.25, "s    all of", 3)
```

<!-- output -->
```text
took 7.5 s  all of 3
```

<!-- fails -->
```console
$ pipert-shm run nothing.yaml
...
```

<!-- not run: there is no such command -->
```console
$ frobnicate
```
"""


LEFT = """
from subprocess import DEVNULL, Popen

left = Popen(["sleep", "300"], start_new_session=True, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
left.returncode = 0  # else its end would warn of it
"""


def run(text: str, directory: Path) -> subprocess.CompletedProcess[str]:
    (directory / "page.md").write_text(text)
    return subprocess.run([sys.executable, pages.__file__, directory / "page.md"], capture_output=True, text=True, check=False)


def test_a_page_that_does_what_it_says(tmp_path: Path) -> None:
    end = run(GOOD, tmp_path)
    assert end.returncode == 0, end.stderr


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```python\nraise SystemExit(3)\n```", "page.md:1: $ python .line_1\nended with status 3"),
        ("```python\nimport warnings\nwarnings.warn('careful')\n```", "UserWarning: careful"),
        ("```python\nprint(1)\n```\n\n<!-- output -->\n```text\n2\n```", "the page says\n2\nand the program\n1"),
        ("```console\n$ echo one\ntwo\n```", "the page says\ntwo\nand the program\none"),
        ("```console\n$ false\n```", "$ false\nended with status 1"),
        ("<!-- fails -->\n```console\n$ true\n```", "$ true\nended with status 0"),
        ("```console\n$ sleep 0.1; false &\n$ sleep 1\n```", "ended with status 1"),
        ("```diff\n# absent.py\n-a\n+b\n```", "absent.py"),
        ("```python\n# a.py\nx = 1\n```\n```diff\n# a.py\n-x = 2\n+x = 3\n```", "the file has 0 times, not once"),
        ("```bash\ncd absent\n```", "ended with status 1"),
        (f"```python{LEFT}```", "the end of all orphans was not met"),
    ],
)
def test_a_page_that_does_not(text: str, fault: str, tmp_path: Path) -> None:
    end = run(text, tmp_path)
    assert end.returncode == 1
    assert fault in end.stderr
