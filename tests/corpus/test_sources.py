import os

import numpy as np
import pytest

from pipeline.base.errors import UsageError
from pipeline.base.fingerprints import tokens_sha256
from pipeline.corpus import (
    Docstrings,
    Files,
    HubDataset,
    TokenFile,
    documents,
    evaluation_tokens,
    parse_corpus,
)
from pipeline.corpus.python_source import python_source
from pipeline.corpus.tokens import token_stream
from pipeline.spec import TokenShape
from pipeline.train.tokenizer import train_tokenizer

SHAPE = TokenShape(batches=2, batch_size=3, seq_len=4)


class Letters:
    """One token per byte; the end of a document is 256."""

    eos_token_id: int | None = 256

    def __call__(self, text, *, add_special_tokens=True):
        assert not add_special_tokens
        return {"input_ids": [list(each.encode()) for each in text]}


class Endless(Letters):
    eos_token_id = None


def save(folder, array):
    np.save(folder / "ids.npy", array)
    return TokenFile(str(folder / "ids.npy"))


@pytest.mark.parametrize(
    "text",
    ["docstrings", "file:a/**/*.txt", "tokens:/x/ids.npy", "hf:wikitext", "hf:org/set/config:test:body"],
)
def test_the_grammar_is_read_and_written_back(text):
    assert str(parse_corpus(text)) == text


def test_each_form_has_its_type():
    assert parse_corpus("docstrings") == Docstrings()
    assert parse_corpus("file:*.txt") == Files("*.txt")
    assert parse_corpus("tokens:a.npy") == TokenFile("a.npy")
    assert parse_corpus("hf:a/b:test:col") == HubDataset("a/b", "test", "col")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("docstring", "did you mean 'docstrings'"),
        ("wikitext", "unknown corpus 'wikitext'"),
        ("token:ids.npy", "did you mean 'tokens'"),
        ("file:", "names nothing after 'file:'"),
        ("tokens:", "names nothing"),
        ("hf:a:b:c:d", "wanted hf:"),
        ("hf:a::c", "wanted hf:"),
        ("", "corpus '' names nothing: wanted docstrings"),
        ("a" * 300, "unknown corpus 'aaa"),
    ],
)
def test_a_corpus_outside_the_grammar_is_named(text, complaint):
    with pytest.raises(UsageError, match=complaint):
        parse_corpus(text)


def test_a_bare_path_gets_its_prefix_suggested(tmp_path):
    path = tmp_path / "ids.npy"
    path.touch()
    with pytest.raises(UsageError, match=f"write 'tokens:{path}'"):
        parse_corpus(str(path))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_tokens_are_taken_in_order(tmp_path, dtype):
    found = evaluation_tokens(save(tmp_path, np.arange(100, dtype=dtype)), SHAPE, vocab_size=100)
    assert found.array.dtype == np.int64
    assert found.array.shape == (2, 3, 4)
    assert found.array.flatten().tolist() == list(range(24))
    assert found.sha256 == evaluation_tokens(save(tmp_path, np.arange(24)), SHAPE).sha256
    assert found.sha256 != evaluation_tokens(save(tmp_path, np.arange(1, 25)), SHAPE).sha256


def test_documents_are_joined_in_the_order_of_their_paths(tmp_path):
    (tmp_path / "b.txt").write_text("second document, long enough")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "empty.txt").write_text(" \n")
    corpus = parse_corpus(f"file:{tmp_path}/*.txt")
    ids = evaluation_tokens(corpus, SHAPE, Letters()).array.flatten().tolist()
    assert ids == [*b"first", 256, *b"second document, l"]
    ids = evaluation_tokens(corpus, SHAPE, Endless()).array.flatten().tolist()
    assert ids == [*b"firstsecond document, lo"]


def test_brackets_in_the_path_of_a_file_that_is_there_are_no_pattern(tmp_path):
    folder = tmp_path / "run[1]"
    folder.mkdir()
    (folder / "eval.txt").write_text("text of this very file, long enough")
    corpus = parse_corpus(f"file:{folder / 'eval.txt'}")
    ids = evaluation_tokens(corpus, SHAPE, Letters()).array.flatten().tolist()
    assert bytes(ids) == b"text of this very file, "


def test_too_few_tokens_say_how_many_and_what_fits(tmp_path):
    with pytest.raises(UsageError, match=r"has 13 tokens.*need 24: --batches 1 fits"):
        evaluation_tokens(save(tmp_path, np.arange(13)), SHAPE)
    with pytest.raises(UsageError, match=r"has 5 tokens.*smaller --batch-size or --seq-len"):
        evaluation_tokens(save(tmp_path, np.arange(5)), SHAPE)
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(UsageError, match=r"has 6 tokens"):
        evaluation_tokens(parse_corpus(f"file:{tmp_path}/a.txt"), SHAPE, Letters())


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.arange(24.0), "float64 of shape"),
        (np.zeros((6, 4), dtype=int), r"shape \(6, 4\): wanted a 1-D integer array"),
        (np.arange(24) > 3, "bool of shape"),
        (np.arange(24) - 1, "token id -1"),
        (np.arange(24) + 300, r"token id 323: wanted 0 to 319"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path, array, complaint):
    with pytest.raises(UsageError, match=complaint):
        evaluation_tokens(save(tmp_path, array), SHAPE, vocab_size=320)


@pytest.mark.parametrize("kind", ["tokens", "file"])
@pytest.mark.parametrize(
    ("path", "complaint"),
    [("~nouser/a", r"'~nouser/a': there is no such user"), ("a" * 300, "name too long")],
)
def test_paths_that_cannot_be_looked_up_are_refused(kind, path, complaint):
    with pytest.raises(UsageError, match=rf"corpus {kind}: .*{complaint}"):
        evaluation_tokens(parse_corpus(f"{kind}:{path}"), SHAPE, Letters())


def test_files_that_are_no_arrays_are_refused(tmp_path):
    path = tmp_path / "ids.npy"
    with pytest.raises(UsageError, match="no such file"):
        evaluation_tokens(TokenFile(str(path)), SHAPE)
    for content in (b"", b"not an array", b"\x93NUMPY\x01\x00", b"\5\0" * 2048):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="not a readable"):
            evaluation_tokens(TokenFile(str(path)), SHAPE)
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(UsageError, match="not a readable"):
        evaluation_tokens(TokenFile(str(path)), SHAPE)


def test_tokens_stay_what_was_hashed_when_their_file_changes(tmp_path):
    path = tmp_path / "ids.npy"
    np.save(path, np.arange(24))
    tokens = evaluation_tokens(TokenFile(str(path)), SHAPE)
    np.load(path, mmap_mode="r+")[:] = 7
    assert tokens_sha256(tokens.array) == tokens.sha256
    assert tokens.array.flags.writeable, "torch warns of what it cannot write to"


def test_unusable_text_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no file matches"):
        documents(parse_corpus(f"file:{tmp_path}/*.txt"))
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"a\.txt is not UTF-8"):
        list(documents(parse_corpus(f"file:{tmp_path}/a.txt")))
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(UsageError, match=r"for token ids write tokens:"):
        list(documents(parse_corpus(f"file:{tmp_path}/a.npy")))
    with pytest.raises(UsageError, match=r"has no tokenizer.*tokens:FILE"):
        evaluation_tokens(parse_corpus(f"file:{tmp_path}/a.txt"), SHAPE)
    with pytest.raises(UsageError, match="holds token ids, not text"):
        documents(TokenFile("x.npy"))


def test_a_fast_tokenizer_is_read_directly_to_the_same_ids():
    tokenizer = train_tokenizer(["to be or not to be", "that is the question"] * 50, 280)
    texts = ["to question", "", "be", "the question is that"]
    plain = [
        [*row, tokenizer.eos_token_id] for row in tokenizer(texts, add_special_tokens=False)["input_ids"]
    ]
    assert np.concatenate(list(token_stream(texts, tokenizer))).tolist() == [
        each for row in plain for each in row
    ]


def test_no_message_advises_to_load_a_pickle(tmp_path):
    path = tmp_path / "ids.npy"
    path.write_bytes(b"\5\0" * 2048)
    with pytest.raises(UsageError, match="no header, as a raw memory map") as raw:
        evaluation_tokens(TokenFile(str(path)), SHAPE)
    np.save(path, np.array([{1: 2}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="Python objects") as objects:
        evaluation_tokens(TokenFile(str(path)), SHAPE)
    assert "pickle" not in f"{raw.value} {objects.value}"


def test_a_byte_order_mark_is_no_text_and_lines_end_alike(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree")
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf")
    assert list(documents(parse_corpus(f"file:{tmp_path}/*.txt"))) == ["one\ntwo\nthree"]
    (tmp_path / "m.py").write_bytes(b"\xef\xbb\xbfx = 1")
    os.mkfifo(tmp_path / "pipe.py")
    assert list(python_source(tmp_path)) == ["x = 1"]


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("/proc/*", "not a file on a disk"),
        ("/proc/self/maps", "not a file on a disk"),
        ("{}/pipe*", "named pipe"),
        ("{}/zero*", "not a file on a disk"),
        ("{}/huge*", "wanted at most"),
        ("{}/gone*", "cannot read"),
    ],
)
def test_a_corpus_reads_regular_files_of_a_disk_only(tmp_path, pattern, complaint):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "huge.txt").touch()
    os.truncate(tmp_path / "huge.txt", 30 * 2**30)
    with pytest.raises(UsageError, match=complaint):
        list(documents(parse_corpus(f"file:{pattern.format(tmp_path)}")))
