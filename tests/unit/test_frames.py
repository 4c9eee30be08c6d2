"""The explanation of an exception: the failing line of each frame, and the tensors in it."""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
from pathlib import Path

import pytest

from ml_intern_cli.frames import LONGEST, explain, explanation_in, marked, without_explanations

HEADER = "import numpy as np\nimport torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
HEADER_LINES = HEADER.count("\n")


def failing(folder: Path, source: str, *, call: str = "main", name: str = "model.py") -> BaseException:
    """What a function of a program raises."""
    file = folder / name
    file.write_text(HEADER + textwrap.dedent(source))
    spec = importlib.util.spec_from_file_location(f"_explained_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        getattr(module, call)()
    except BaseException as error:  # noqa: BLE001, whatever it raises
        return error
    raise AssertionError("nothing was raised")


def explained(folder: Path, source: str) -> str:
    text = explain(failing(folder, source), root=folder)
    assert len(text) <= LONGEST
    return text


def rows(text: str) -> dict[str, str]:
    """The values below the innermost frame, by name."""
    lines = text.splitlines()
    frames = [index for index, line in enumerate(lines) if line.startswith("  ") and line[2] != " "]
    end = frames[1] if len(frames) > 1 else len(lines)
    pairs = [line.strip().split("  ", 1) for line in lines[frames[0] + 1 : end]]
    return {name: value.strip() for name, value in pairs}


NESTED = """
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(128, 64)

    def forward(self, x):
        y = self.proj(x.transpose(1, 2))
        return y

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.norm = nn.LayerNorm(64)

    def forward(self, x):
        x = x + self.attention(self.norm(x))
        return x

def main():
    batch = {"x": torch.randn(2, 8, 64)}
    with torch.no_grad():
        Block()(batch["x"])
"""


def test_a_mismatch_in_a_nested_module_shows_every_frame_of_the_program_innermost_first(
    tmp_path: Path,
) -> None:
    assert explained(tmp_path, NESTED).splitlines() == [
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (128x8 and 128x64)",
        f"  model.py:{HEADER_LINES + 8} in Attention.forward:  y = self.proj(x.transpose(1, 2))",
        "      self.proj.weight         (64, 128) float32  Linear 128 → 64",
        "      x                        (2, 8, 64) float32",
        "      input in Linear.forward  (2, 64, 8) float32",
        f"  model.py:{HEADER_LINES + 18} in Block.forward:  x = x + self.attention(self.norm(x))",
        "      self.norm.weight  (64,) float32  LayerNorm",
        "      x                 (2, 8, 64) float32",
        f'  model.py:{HEADER_LINES + 24} in main:  Block()(batch["x"])',
        '      batch["x"]  (2, 8, 64) float32',
    ]


def test_an_index_of_the_wrong_type_is_shown_with_its_type(tmp_path: Path) -> None:
    source = """
    def main():
        embed, ids = nn.Embedding(100, 16), torch.ones(2, 8)
        return embed(ids)
    """
    found = rows(explained(tmp_path, source))
    assert found["ids"] == "(2, 8) float32"
    assert found["embed.weight"] == "(100, 16) float32  Embedding 100 → 16"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("torch.cat([a, b])", {"a": "(2, 8) float32", "b": "(2, 9) int64"}),
        ("torch.cat(parts)", {"parts": "list of 2: (2, 8) float32, (2, 9) int64"}),
        ("a * b", {"a": "(2, 8) float32", "b": "(2, 9) int64"}),
        ('torch.einsum("ij,jk->ik", a, c)', {"a": "(2, 8) float32", "c": "(3, 5) bfloat16"}),
        ("a.view(n, sizes[1], 7)", {"a": "(2, 8) float32", "n": "2", "sizes[1]": "8"}),
        ("a.view(b.shape)", {"a": "(2, 8) float32", "b": "(2, 9) int64"}),
        ("a.view(sizes)[0].view(shape)", {"shape": "(3, 4)"}),
        ("holder.inner.weight @ holder.c", {"holder.inner.weight": "(2, 8) float32"}),
        ("model.blocks[0].w @ model.b", {"model.blocks[0].w": "(4, 4) float32", "model.b": "(3,) float32"}),
        ('batch["x"][0] + batch["y"]', {'batch["x"]': "(2, 8) float32", 'batch["y"]': "(2, 9) int64"}),
        ("array @ array", {"array": "(3, 4) float64 array"}),
        ("[a + one for one in [b]]", {"a": "(2, 8) float32", "one": "(2, 9) int64"}),
        ("a[nowhere]", {"a": "(2, 8) float32"}),
    ],
)
def test_the_tensors_of_the_failing_line_are_found(
    tmp_path: Path, line: str, expected: dict[str, str]
) -> None:
    source = f"""
    class Holder:
        __slots__ = ("inner", "c")

    class Inner:
        def __init__(self, weight):
            self.weight = weight

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(4, 4))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block()])
            self.register_buffer("b", torch.zeros(3))

    def main():
        a, b, c = torch.ones(2, 8), torch.ones(2, 9).long(), torch.ones(3, 5, dtype=torch.bfloat16)
        parts, n, sizes, shape = [a, b], 2, (2, 8), torch.Size([3, 4])
        batch, array, model, holder = {{"x": a, "y": b}}, np.ones((3, 4)), Model(), Holder()
        holder.inner, holder.c = Inner(a), c
        {line}
    """
    found = rows(explained(tmp_path, source))
    assert {name: found.get(name) for name in expected} == expected


def test_a_target_that_is_only_written_is_not_shown_and_one_that_is_added_to_is(tmp_path: Path) -> None:
    source = """
    def main():
        y, a, b = torch.zeros(9), torch.ones(2), torch.ones(3)
        {line}
    """
    assert set(rows(explained(tmp_path, source.format(line="y = a + b")))) == {"a", "b"}
    assert set(rows(explained(tmp_path, source.format(line="y += b")))) == {"y", "b"}
    assert set(rows(explained(tmp_path, source.format(line="y[a > 0] = b")))) == {"y", "a", "b"}


def test_a_name_that_a_comprehension_binds_is_no_global(tmp_path: Path) -> None:
    source = """
    one = torch.zeros(7)

    def main():
        a = torch.ones(2)
        return [one + 1 for one in [a]] + a.view(3)
    """
    assert set(rows(explained(tmp_path, source))) == {"a"}


def test_only_the_head_of_a_compound_statement_is_shown(tmp_path: Path) -> None:
    source = """
    def main():
        a, b, other = torch.ones(2), torch.ones(3), torch.ones(5)
        if (
            a + b  # a remark
        ).sum() > 0:
            # what follows
            print(other)
    """
    text = explained(tmp_path, source)
    assert "in main:  if (a + b # a remark).sum() > 0:\n" in text
    assert set(rows(text)) == {"a", "b"}


def test_a_statement_of_several_lines_is_joined_and_a_long_one_cut_to_what_failed(tmp_path: Path) -> None:
    source = """
    def main():
        a, b = torch.ones(2), torch.ones(3)
        x = torch.add(
            a,
            b,
        )
    """
    assert "main:  x = torch.add(a, b,)\n" in explained(tmp_path, source)
    words = ", ".join(f"'word {index}'" for index in range(40))
    long = f"""
    def main():
        a, b = torch.ones(2), torch.ones(3)
        return [{words}, a + b]
    """
    assert "main:  … a + b …\n" in explained(tmp_path, long)


def test_elements_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    source = """
    def main():
        x, n = torch.ones(4, 128), np.ones(8)
        x[0, :3], n[0] = float("nan"), float("inf")
        assert torch.isfinite(x).all() and n.sum() < 9
    """
    found = rows(explained(tmp_path, source))
    assert found == {"x": "(4, 128) float32 3 of 512 not finite", "n": "(8,) float64 array 1 of 8 not finite"}


def test_the_device_is_named_where_it_is_not_the_cpu(tmp_path: Path) -> None:
    source = """
    def main():
        a, b = torch.ones(2, device="meta"), torch.ones(3)
        return a + b
    """
    assert rows(explained(tmp_path, source))["a"] == "(2,) float32 meta"


def test_values_of_tensors_are_not_shown(tmp_path: Path) -> None:
    source = """
    def main():
        secret = torch.full((2,), 31337)
        return secret + torch.ones(3)
    """
    assert "31337" not in explained(tmp_path, source)


def test_a_recursion_without_end_is_told_in_a_few_lines(tmp_path: Path) -> None:
    source = """
    def even(x):
        return odd(x)

    def odd(x):
        return even(x)

    def again(x):
        return again(x)

    def main():
        again(torch.ones(2))

    def other():
        even(torch.ones(2))
    """
    text = explained(tmp_path, source)
    assert text.startswith("RecursionError: maximum recursion depth exceeded")
    assert " times)" in text
    assert len(text.splitlines()) < 8
    text = explain(failing(tmp_path, source, call="other"), root=tmp_path)
    assert "more frames" in text
    assert text.splitlines()[-1].endswith("in other:  even(torch.ones(2))")
    assert len(text) < LONGEST
    assert len(text.splitlines()) < 40


def test_long_and_many_frames_fit_and_the_first_and_last_are_kept(tmp_path: Path) -> None:
    names = [f"a_rather_long_name_of_a_tensor_{index}" for index in range(20)]
    steps = "".join(
        f"def step_{index}({', '.join(names)}):\n    return step_{index + 1}({', '.join(names)})\n"
        for index in range(30)
    )
    last = f"def step_30({', '.join(names)}):\n    return {' + '.join(names)}.view(3)\n"
    source = f"{steps}{last}def main():\n    step_0(*[torch.ones(2)] * 20)\n"
    text = explained(tmp_path, source)
    assert "in step_30:" in text
    assert text.splitlines()[-1].endswith("in main:  step_0(*[torch.ones(2)] * 20)")
    assert "more frames" in text
    assert len(rows(text)) == 12


def test_huge_variables_do_no_harm(tmp_path: Path) -> None:
    source = """
    def main():
        numbers, text, digits = list(range(500_000)), "x" * 10_000_000, 10 ** 100_000
        table = {index: index for index in range(500_000)}
        a = torch.ones(3)
        return a.view(digits, table["x"], text, numbers)
    """
    text = explained(tmp_path, source)
    assert rows(text) == {"a": "(3,) float32"}


HOSTILE = """
CALLS = []

def never(*args, **kwargs):
    CALLS.append(args)
    raise SystemError("run")

class Meta(type):
    __name__ = property(never)
    __mro__ = property(never)
    __eq__ = never
    __hash__ = type.__hash__
    __instancecheck__ = never
    __getattribute__ = type.__getattribute__

class Hostile(metaclass=Meta):
    __getattr__ = __repr__ = __str__ = __len__ = __iter__ = __bool__ = __eq__ = __index__ = never
    __getitem__ = __format__ = __dir__ = never
    __class__ = property(never)
    weight = property(never)
    shape = property(never)

    def __getattribute__(self, name):
        never()

class HostileKey:
    def __hash__(self):
        return hash("x")
    __eq__ = never

class HostileModule(nn.Module):
    weight = property(never)
    __getattr__ = __repr__ = never

class HostileTensor(torch.Tensor):
    shape = dtype = property(never)
    __repr__ = __bool__ = never
    @classmethod
    def __torch_function__(cls, *args, **kwargs):
        never()

class HostileDispatch(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, *args, **kwargs):
        never()

class HostileDict(dict):
    __getitem__ = __iter__ = items = keys = get = __contains__ = never

class HostileInt(int):
    __repr__ = __str__ = bit_length = __index__ = never

class HostileError(Exception):
    __str__ = __repr__ = never

def main():
    o, module, number = Hostile(), HostileModule(), HostileInt(3)
    tensor = torch.Tensor._make_subclass(HostileTensor, torch.ones(2, 3))
    dispatch = torch.Tensor._make_subclass(HostileDispatch, torch.ones(2, 3))
    keyed = {HostileKey(): 1}
    d = HostileDict(x=torch.ones(4))
    CALLS.clear()
    fail(o, o.weight.x if CALLS else o, module, number, tensor, dispatch, d, o["x"] if CALLS else o,
         d["x"] if CALLS else d, keyed["x"] if CALLS else keyed, module.weight if CALLS else 1,
         o.shape if CALLS else o)

def fail(o, *rest):
    raise HostileError(HostileInt(3), rest)
"""


def test_no_code_of_the_objects_in_the_frames_is_run(tmp_path: Path) -> None:
    error = failing(tmp_path, HOSTILE)
    assert error.__traceback__ is not None
    link = error.__traceback__.tb_next
    assert link is not None
    calls = link.tb_frame.f_globals["CALLS"]
    calls.clear()
    text = explain(error, root=tmp_path)
    assert calls == []
    lines = text.splitlines()
    assert lines[0] == "HostileError"
    assert "  tensor    (2, 3) float32" in text
    assert "  dispatch  a HostileDispatch" in text
    assert '  d["x"]    (4,) float32' in text


def test_a_namespace_that_a_metaclass_made_is_not_asked(tmp_path: Path) -> None:
    source = """
    class Namespace(dict):
        def __getitem__(self, name):
            if name == "ask":
                raise SystemError("run")
            return super().__getitem__(name)

    class Meta(type):
        @classmethod
        def __prepare__(cls, *_):
            return Namespace()

    def main():
        class Model(metaclass=Meta):
            x = torch.ones(2)
            x + torch.ones(3)
    """
    assert "in main.<locals>.Model:  x + torch.ones(3)" in explained(tmp_path, source)


def test_without_its_source_a_frame_shows_the_tensors_that_it_holds(tmp_path: Path) -> None:
    error = failing(tmp_path, NESTED)
    (tmp_path / "model.py").unlink()
    text = explain(error, root=tmp_path)
    assert re.search(
        rf"  model\.py:{HEADER_LINES + 8} in Attention\.forward:\n      x +\(2, 8, 64\) float32", text
    )


def test_a_source_that_was_edited_meanwhile_does_no_harm(tmp_path: Path) -> None:
    error = failing(tmp_path, NESTED)
    for text in ("", "(\n" * 50, "x = 1\n" * 50, "\x00", "é" * 9000, '"""' * 7):
        (tmp_path / "model.py").write_text(text)
        assert "in Attention.forward:" in explain(error, root=tmp_path)


def test_code_made_of_text_is_passed_over_and_its_caller_shown(tmp_path: Path) -> None:
    source = """
    def main():
        a = torch.ones(2)
        exec("b = a + torch.ones(3)", {"a": a, "torch": torch})
    """
    lines = explained(tmp_path, source).splitlines()
    assert lines[1].startswith(f"  model.py:{HEADER_LINES + 4} in main:  exec(")
    assert not any("<string>" in line for line in lines)


def test_the_cause_of_an_exception_is_explained_too(tmp_path: Path) -> None:
    source = """
    def inner():
        a, b = torch.ones(2), torch.ones(3)
        return a + b

    def main():
        try:
            inner()
        except RuntimeError as error:
            raise ValueError("it does not fit") from error
    """
    lines = explained(tmp_path, source).splitlines()
    assert lines[0] == "ValueError: it does not fit"
    cause = next(
        index for index, line in enumerate(lines) if line.startswith("caused by RuntimeError: The size")
    )
    assert lines[cause + 1].endswith("in inner:  return a + b")
    assert lines[cause + 2 : cause + 4] == ["      a  (2,) float32", "      b  (3,) float32"]


def test_where_memory_ran_out_the_largest_tensors_are_named(tmp_path: Path) -> None:
    source = """
    def main():
        logits, small = torch.empty(1 << 10, 1 << 16, dtype=torch.float16, device="meta"), torch.ones(2)
        batch = {"mask": torch.empty(1 << 20, device="meta")}
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB")
    """
    lines = explained(tmp_path, source).splitlines()
    assert lines[0].startswith("OutOfMemoryError: CUDA out of memory")
    assert lines[1] == "  the largest tensors in these frames:"
    place = f"(model.py:{HEADER_LINES + 5})"
    assert lines[2] == f"     0.125 GiB  logits  (1024, 65536) float16 meta  {place}"
    assert lines[3] == f'     0.004 GiB  batch["mask"]  (1048576,) float32 meta  {place}'


def test_files_of_libraries_and_files_elsewhere_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "path-a"
    library = root / "env" / "site-packages"
    library.mkdir(parents=True)
    error = failing(library, NESTED)
    assert explain(error, root=root) == str(error.__class__.__name__) + ": " + str(error)
    assert "model.py" in explain(error, root=library)


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    source = """
    def main():
        raise ValueError("red: \\x1b[31m\\x07 and more\\nlines")
    """
    assert explained(tmp_path, source).splitlines()[0] == "ValueError: red: �[31m� and more lines"


def test_an_exception_that_was_never_raised_is_only_named(tmp_path: Path) -> None:
    assert explain(KeyError("eos"), root=tmp_path) == "KeyError: 'eos'"


def test_it_works_where_torch_is_only_half_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = failing(tmp_path, NESTED)
    monkeypatch.setitem(sys.modules, "torch", type(sys)("torch"))
    assert "Attention.forward" in explain(error, root=tmp_path)


EXPLANATION = "RuntimeError: no\n  model.py:1 in f:  g()"
TRACEBACK = "Traceback (most recent call last):\n  …\nRuntimeError: no\n"


def test_an_explanation_is_found_in_a_log_and_taken_out_of_it() -> None:
    log = f"train.py: started\n{TRACEBACK}{marked(EXPLANATION)}"
    assert explanation_in(log) == EXPLANATION
    assert without_explanations(log).splitlines()[-1] == "RuntimeError: no"
    assert without_explanations(log).splitlines()[0] == "train.py: started"


def test_a_log_that_was_cut_inside_an_explanation_keeps_what_is_left_of_both() -> None:
    end = marked(EXPLANATION).splitlines()[2:]
    log = "\n".join([*end, "later"])
    assert explanation_in(log) == "  model.py:1 in f:  g()"
    assert without_explanations(log) == "later"
    begin = TRACEBACK + "\n".join(marked(EXPLANATION).splitlines()[:2])
    assert explanation_in(begin) == ""
    assert without_explanations(begin).splitlines()[-1] == "RuntimeError: no"


def test_an_explanation_of_an_earlier_failure_is_not_taken_for_that_of_the_last() -> None:
    log = TRACEBACK + marked(EXPLANATION) + "note\n" * 20
    assert explanation_in(log) == ""
    assert (
        explanation_in(TRACEBACK + marked("A: 1") + TRACEBACK + marked("B: 2") + "leaked semaphore\n")
        == "B: 2"
    )
    assert explanation_in("") == ""
