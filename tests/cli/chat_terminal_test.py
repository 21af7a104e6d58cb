#!/usr/bin/env python3
"""metal-marlin chat on a pseudo terminal: chat_terminal_test.py BINARY MODEL [unittest options]

MODEL is a small model without a chat template; the tests give it one. One of these templates refuses every conversation
with its messages as the reason, so that the screen shows what the program took from the keys.
"""

import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import termios
import time
import unittest

BINARY, MODEL = "", ""
REFUSES = "{{ raise_exception('GOT' ~ (messages | tojson) ~ 'END') }}"
ANSWERS = "{% for m in messages %}{{ m.content }} {% endfor %}"
SECONDS = float(os.environ.get("SECONDS_TO_WAIT", 120))  # at most, on a busy machine
PASTE, PASTE_END = b"\x1b[200~", b"\x1b[201~"
UP, DOWN, RIGHT, LEFT = b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D"


def ctrl(letter):
    return bytes([ord(letter) & 0x1F])


class Terminal:
    """A run of the command whose standard streams are a terminal."""

    def __init__(self, arguments, environment):
        self.shown = b""
        self.seen = 0
        self.code = None
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execve(BINARY, [BINARY, *arguments], environment)
        self.modes = termios.tcgetattr(self.descriptor)

    def close(self):
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.descriptor)

    def type(self, *keys):
        """Keys at once: while the program does not read them, the terminal itself edits the line and sends signals."""
        for key in keys:
            os.write(self.descriptor, key.encode() if isinstance(key, str) else key)

    def keys(self, *keys):
        """Keys for the editor, once it takes them one by one: without that, the terminal acts on Ctrl-U, Ctrl-R, ..."""
        until = time.monotonic() + SECONDS
        while termios.tcgetattr(self.descriptor)[3] & termios.ICANON:
            if time.monotonic() > until:
                raise AssertionError(f"the editor does not read after {self.shown[-500:]!r}")
            self.read(0.01)
        self.type(*keys)

    def read(self, seconds):
        """What comes within some time; false at the end."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return True
        try:
            piece = os.read(self.descriptor, 65536)
        except OSError:  # Linux reports the end so
            return False
        self.shown += piece
        return bool(piece)

    def wait_for(self, pattern):
        """Waits until what comes after the last match has another one; returns it."""
        until = time.monotonic() + SECONDS
        while True:
            match = re.compile(pattern, re.S).search(self.shown, self.seen)
            if match:
                self.seen = match.end()
                return match
            if time.monotonic() > until or not self.read(1):
                raise AssertionError(f"no {pattern!r} in {self.shown[self.seen :]!r}")

    def prompt(self):
        self.wait_for(rb"> ")

    def ask(self, line):
        """Types a line and waits until the program takes the next one."""
        self.keys(line, b"\r")
        self.prompt()

    def messages(self, *keys):
        """The conversation that the template refuses, after these keys are typed if there are any."""
        if keys:
            self.keys(*keys)
        return json.loads(self.wait_for(rb"GOT(\[.*?\])END").group(1))

    def message(self, *keys):
        """What the program takes as the last message when these keys and Enter are typed."""
        return self.messages(*keys, b"\r")[-1]["content"]

    def end(self):
        """The exit code, or the number of the signal, negative."""
        until = time.monotonic() + SECONDS
        while self.code is None:
            self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                raise AssertionError(f"still running after {self.shown[-500:]!r}")
        while self.read(0.05) and select.select([self.descriptor], [], [], 0)[0]:
            pass
        return self.code


class Chat(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="metal-marlin-chat-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.model = self.folder / "model"
        shutil.copytree(MODEL, self.model)
        self.state = self.folder / "state"
        self.history = self.state / "metal-marlin" / "history"
        self.environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLORTERM")}
        self.environment |= {"TERM": "xterm-256color", "XDG_STATE_HOME": str(self.state)}

    def template(self, text):
        (self.model / "chat_template.jinja").write_text(text)

    def start(self, *options):
        terminal = Terminal(["chat", str(self.model), *options], self.environment)
        self.addCleanup(terminal.close)
        terminal.prompt()
        return terminal

    def echo(self):
        self.template(REFUSES)
        return self.start()

    def test_keys_edit_the_line(self):
        chat = self.echo()
        self.assertEqual(chat.message("hello wrld", LEFT * 3, "o"), "hello world")
        self.assertEqual(chat.message("bc", ctrl("A"), "a", ctrl("E"), "d"), "abcd")
        self.assertEqual(chat.message("one two three", ctrl("W")), "one two ")
        self.assertEqual(chat.message("keep lost", LEFT * 5, ctrl("K")), "keep")
        self.assertEqual(chat.message("lost kept", LEFT * 4, ctrl("U")), "kept")
        self.assertEqual(chat.message("ab\x7fc"), "ac")
        self.assertEqual(chat.message("xa", b"\x1b[H", b"\x1b[3~", b"\x1b[F", "b"), "ab")  # Home, Delete, End

    def test_wide_characters_are_one_key(self):
        chat = self.echo()
        self.assertEqual(
            chat.message("h\u00e9llo \u65e5\u672c\u8a9e \U0001f44d", b"\x7f", b"\x7f", b"\x7f"),
            "h\u00e9llo \u65e5\u672c",
        )
        self.assertEqual(chat.message("\u65e5\u8a9e", LEFT, "\u672c"), "\u65e5\u672c\u8a9e")

    def test_earlier_lines_come_back_in_the_next_session(self):
        chat = self.echo()
        chat.message("the first one")
        chat.message("the second")
        self.assertEqual(chat.message(UP, UP), "the first one")
        chat.keys("/exit\r")
        self.assertEqual(chat.end(), 0)
        self.assertEqual(self.history.read_text(), "the first one\nthe second\nthe first one\n/exit\n")
        self.assertEqual(stat.S_IMODE(self.history.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(self.history.parent.stat().st_mode), 0o700)
        chat = self.start()
        self.assertEqual(chat.message(UP, UP, DOWN, UP), "the first one")
        chat.keys(ctrl("R"))
        self.assertEqual(chat.message("seco"), "the second")

    def test_history_has_a_bound(self):
        self.history.parent.mkdir(parents=True)
        self.history.write_text("".join(f"line {i}\n" for i in range(1500)))
        chat = self.echo()
        chat.message("new")
        self.assertEqual(self.history.read_text().splitlines(), [f"line {i}" for i in range(501, 1500)] + ["new"])

    def test_history_is_no_link(self):
        target = self.folder / "target"
        target.write_text("untouched\n")
        self.history.parent.mkdir(parents=True)
        self.history.symlink_to(target)
        chat = self.echo()
        self.assertIn(b"expected a regular file, found a symbolic link", chat.shown)
        self.assertEqual(chat.message("goes on"), "goes on")
        self.assertEqual(target.read_text(), "untouched\n")
        self.assertTrue(self.history.is_symlink())

    def test_messages_of_several_lines(self):
        chat = self.echo()
        self.assertEqual(chat.message("one\\\rtwo"), "one\ntwo")
        self.assertEqual(chat.message(UP), "one\ntwo")  # comes back whole
        self.assertEqual(chat.message('"""\rone\r\rtwo\r"""'), "one\n\ntwo")
        chat.keys('"""lost\r')
        chat.wait_for(rb"\. ")
        chat.keys(ctrl("C"))
        chat.prompt()
        self.assertEqual(chat.message("new"), "new")

    def test_pasted_text_is_one_message(self):
        chat = self.echo()
        self.assertEqual(chat.message(PASTE, "one\rtwo\tx\\\r\nthree", PASTE_END), "one\ntwo\tx\\\nthree")
        self.assertIn(b"\x1b[?2004h", chat.shown)
        chat.keys("/exit\r")
        self.assertEqual(chat.end(), 0)
        self.assertGreater(chat.shown.rfind(b"\x1b[?2004l"), chat.shown.rfind(b"\x1b[?2004h"))

    def test_what_is_typed_ahead_is_not_lost(self):
        chat = self.echo()
        chat.keys("one\rtwo\rthr")
        for expected in ("one", "two"):
            self.assertEqual(chat.messages()[-1]["content"], expected)
        chat.prompt()
        self.assertEqual(chat.message("ee"), "three")

    def test_commands(self):
        self.template("{% if messages[-1].content == 'show' %}" + REFUSES + "{% endif %}" + ANSWERS)
        chat = self.start("-n", "4", "--ignore-eos")
        chat.ask("/system Be brief.")
        chat.ask("hello")
        messages = chat.messages("show\r")
        self.assertEqual([m["role"] for m in messages], ["system", "user", "assistant", "user"])
        self.assertEqual(messages[0]["content"], "Be brief.")
        chat.prompt()
        chat.ask("/regenerate")
        again = chat.messages("show\r")
        self.assertEqual([m["role"] for m in again], ["system", "user", "assistant", "user"])
        self.assertNotEqual(again[2], messages[2])  # other random numbers
        chat.prompt()
        chat.ask("/clear")
        messages = chat.messages("show\r")
        self.assertEqual([m["role"] for m in messages], ["system", "user"])
        chat.prompt()
        chat.keys("/help\r")
        chat.wait_for(rb"/regenerate ")
        chat.keys("/regenrate\r")
        chat.wait_for(rb"no such command")
        chat.keys("/regenerate\r")
        chat.wait_for(rb"expected an answer to replace")

    def long_answer(self):
        """A session in the middle of an answer that would take hours."""
        self.template(ANSWERS)
        self.environment["NO_COLOR"] = "1"
        chat = self.start("-c", "1000000", "--ignore-eos")
        chat.keys("hello\r")
        chat.wait_for(rb"warning: [^\n]*\n[^\n]*\w{3}")
        return chat

    def test_control_c_stops_the_answer_and_keeps_the_session(self):
        chat = self.long_answer()
        chat.type(ctrl("C"))
        chat.prompt()
        chat.keys("/exit\r")
        self.assertEqual(chat.end(), 0)

    def test_sigterm_ends_the_session_during_an_answer(self):
        chat = self.long_answer()
        os.kill(chat.pid, signal.SIGTERM)
        self.assertEqual(chat.end(), 130)

    def test_control_c_at_the_prompt(self):
        chat = self.echo()
        chat.keys("lost", ctrl("C"))
        chat.prompt()
        self.assertEqual(chat.message("new"), "new")
        chat.prompt()
        chat.keys(ctrl("C"))
        chat.wait_for(rb"Ctrl-C again.*> ")
        self.assertEqual(chat.message("stays"), "stays")
        chat.prompt()
        chat.keys(ctrl("C"))
        chat.wait_for(rb"Ctrl-C again.*> ")
        chat.keys(ctrl("C"))
        self.assertEqual(chat.end(), 130)

    def test_control_d_leaves(self):
        chat = self.echo()
        chat.keys(ctrl("D"))
        self.assertEqual(chat.end(), 0)

    def test_a_signal_leaves_the_terminal_as_it_was(self):
        chat = self.echo()
        self.assertEqual(termios.tcgetattr(chat.descriptor)[3] & termios.ECHO, 0)  # the editor shows what is typed
        os.kill(chat.pid, signal.SIGTERM)
        until = time.monotonic() + SECONDS
        while termios.tcgetattr(chat.descriptor) != chat.modes and time.monotonic() < until:
            time.sleep(0.01)
        self.assertEqual(termios.tcgetattr(chat.descriptor), chat.modes)
        self.assertEqual(chat.end(), -signal.SIGTERM)

    def test_answers_cannot_steer_the_terminal(self):
        # The model's token "?" becomes the byte 0x1b, in the letters of byte-level BPE.
        file = self.model / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["\u011b"] = vocabulary.pop("?")
        file.write_text(json.dumps(tokenizer))
        self.template(ANSWERS)
        self.environment["NO_COLOR"] = "1"
        chat = self.start("-n", "1000", "-c", "2000", "--ignore-eos", "--log-level", "error")
        chat.keys("hello\r")
        answer = chat.wait_for(rb"\x1b\[\?2004l\r\n(.*?)\r\n\x1b\[\?2004h").group(1)
        self.assertIn(b"\\x1b", answer)
        self.assertNotIn(b"\x1b", answer)
        # A pipe gets the text.
        command = [BINARY, "chat", str(self.model), "-n", "1000", "-c", "2000", "--ignore-eos", "-q"]
        done = subprocess.run(command, input=b"hello\n", env=self.environment, capture_output=True, timeout=SECONDS)
        self.assertIn(b"\x1b", done.stdout)

    def test_colors(self):
        self.template(REFUSES)
        colored = re.compile(rb"\x1b\[[0-9;]*m")
        for no_color in (False, True):
            if no_color:
                self.environment["NO_COLOR"] = "1"
            chat = self.start()
            chat.message("hello")
            chat.keys("/exit\r")
            self.assertEqual(chat.end(), 0)
            self.assertEqual(colored.search(chat.shown) is None, no_color, chat.shown)

    def test_a_dumb_terminal_has_lines(self):
        self.template(REFUSES)
        self.environment["TERM"] = "dumb"
        chat = self.start()
        chat.type("hello\r")
        self.assertEqual(chat.messages()[-1]["content"], "hello")

    def test_scripts_get_no_escape_sequences(self):
        self.template(ANSWERS)
        command = [BINARY, "chat", str(self.model), "-n", "4", "--ignore-eos"]
        lines = 'hello \\\n"""\n/clear\n\nsecond\n'
        done = subprocess.run(command, input=lines.encode(), env=self.environment, capture_output=True, timeout=SECONDS)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn(b"\x1b", done.stdout + done.stderr)
        self.assertEqual(done.stderr, b"")
        self.assertFalse(self.history.exists())
        # What has no effect on a choice without chance is not warned of.
        done = subprocess.run(
            [*command, "--temp", "0"], input=b"hello\n/regenerate\n", env=self.environment, capture_output=True
        )
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        # Each line is a message, also one that would go on.
        done = subprocess.run([*command, "--json"], input=lines.encode(), env=self.environment, capture_output=True)
        self.assertEqual(len(done.stdout.splitlines()), 3)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    BINARY, MODEL = sys.argv[1:3]
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
