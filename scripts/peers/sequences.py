"""Calibration sequences for the peers: those that `metal-marlin quantize --calibration TEXT` takes."""

from pathlib import Path


def sequences(model, text, count, length=512):
    """[count][length] token ids: the text's beginning, cut, without special tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer(Path(text).read_text(encoding="utf-8"), add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < count * length:
        raise SystemExit(f"{text}: expected {count * length} tokens, found {len(ids)}")
    return [ids[i * length : (i + 1) * length] for i in range(count)]
