//! The library's tokenizer with normalizers and pre-tokenizers of our own, and what its calls may take.

use tokenizers::{DecoderWrapper, PostProcessorWrapper, TokenizerImpl};

use crate::budget::Limits;
use crate::checked::{Cut, Norm};
use crate::model::ReadModel;

pub type Library = TokenizerImpl<ReadModel, Norm, Cut, PostProcessorWrapper, DecoderWrapper>;

/// Processor time of a call, and more for each byte of its text. The tokenizers in use take 0.5 us for each byte, on
/// a busy machine 1 us.
pub const SECONDS: f64 = 1.0;
pub const SECONDS_PER_BYTE: f64 = 5e-6;

/// Of a text of `size` bytes. The library takes 130 bytes for each byte of prose, and less than twice that for any text
/// with the tokenizers in use.
pub fn limits(size: usize) -> Limits {
    Limits {
        live: (64 << 20) + 400 * size,
        total: (1 << 30) + 4000 * size as u64,
        seconds: SECONDS + SECONDS_PER_BYTE * size as f64,
    }
}

/// Of loading a tokenizer.json of `size` bytes, or of adding to a tokenizer. A vocabulary like Gemma's, of 28 MB, takes
/// half of this memory, the copy of its file included, and 0.03 us for each byte.
pub fn load_limits(size: usize) -> Limits {
    Limits {
        live: (300 << 20) + size,
        total: (8 << 30) + 1000 * size as u64,
        seconds: 2.5 + 1.5e-7 * size as f64,
    }
}
