//! Text for the tables: words that look like text and compress like it, about 3 to 1 by zstd:1 once they
//! lie in rows and pages. pgbench's own filler is blanks, which compress 38 to 1 and flatter everything.

use std::io::{self, Write};

/// What words are made of.
const LETTERS: &[u8] = b"etaoinsrhldcumfpgwybvk";
/// How many different words there are.
const WORDS: u64 = 4096;

/// Small deterministic random numbers (SplitMix64): every run has the same cluster.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Appends exactly `length` bytes of text to `line`.
pub fn text(line: &mut Vec<u8>, dice: &mut Dice, length: usize) {
    let end = line.len() + length;
    while line.len() < end {
        let roll = dice.roll();
        // The smaller of two: some words are frequent, most are rare, as in a language.
        let word = (roll % WORDS).min((roll >> 32) % WORDS);
        let mut letters = mix(word);
        for _ in 0..2 + letters % 8 {
            letters = mix(letters);
            line.push(LETTERS[usize::from(letters.to_le_bytes()[0]) % LETTERS.len()]);
        }
        line.push(b' ');
    }
    line.truncate(end);
    // A blank at the end would be padding.
    if let Some(last) = line.last_mut() {
        *last = b'.';
    }
}

/// Writes the rows of pgbench_accounts in COPY's text format.
pub fn accounts(out: &mut dyn Write, scale: u64) -> io::Result<()> {
    let mut dice = Dice::new(1);
    let mut line = Vec::new();
    for aid in 1..=scale * 100_000 {
        line.clear();
        write!(line, "{aid}\t{}\t0\t", (aid - 1) / 100_000 + 1)?;
        text(&mut line, &mut dice, 84);
        line.push(b'\n');
        out.write_all(&line)?;
    }
    Ok(())
}

/// Writes rows of a number and a text of some length.
pub fn documents(out: &mut dyn Write, seed: u64, rows: u64) -> io::Result<()> {
    let mut dice = Dice::new(seed);
    let mut line = Vec::new();
    for id in 1..=rows {
        line.clear();
        write!(line, "{id}\t")?;
        let length = 60 + dice.roll() % 120;
        text(&mut line, &mut dice, usize::try_from(length).unwrap_or(60));
        line.push(b'\n');
        out.write_all(&line)?;
    }
    Ok(())
}
