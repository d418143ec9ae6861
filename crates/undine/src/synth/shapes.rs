//! The shapes of the published LFM2 and LFM2.5 language models, carried in the binary as `shapes.json`.
//!
//! Source: published configurations and file headers; where a value is not confirmed the shape has a note.

use serde::Deserialize;

/// A model's shape, as far as a file of random weights needs it. Widths are counts of values.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct Shape {
    /// Checkpoints of this shape; the first names it.
    pub names: Vec<String>,
    /// Width of the residual stream.
    pub hidden: usize,
    /// One letter per layer: `c` short convolution, `a` attention.
    pub pattern: String,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Hidden values of a dense feed-forward.
    pub feed_forward: usize,
    /// Taps of the short convolution.
    pub conv_taps: usize,
    /// Entries of the embedding table.
    pub vocab: usize,
    /// Base of the rotary embedding.
    pub rope_theta: f32,
    /// Epsilon of every norm.
    pub norm_eps: f32,
    /// Positions the configuration allows.
    pub context: u32,
    /// The mixture of experts.
    pub moe: Option<MoeShape>,
    /// Which layout of special tokens the vocabulary has.
    pub special_ids: SpecialLayout,
    /// What is not certain about the shape.
    pub note: Option<String>,
    /// A shape for tests, which `--list` leaves out.
    #[serde(default)]
    pub hidden_from_list: bool,
}

/// The mixture of experts of a shape.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
pub struct MoeShape {
    /// Experts in a layer.
    pub experts: usize,
    /// Experts a token visits.
    pub experts_active: usize,
    /// Hidden values of an expert.
    pub width: usize,
    /// First layers that have a dense feed-forward instead.
    pub dense_layers: usize,
}

/// Where the special tokens are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub enum SpecialLayout {
    /// From id 0, as in the vocabulary of 65,536.
    #[serde(rename = "64k")]
    First,
    /// From id 124,893, as in the vocabulary of 128,000.
    #[serde(rename = "128k")]
    Extended,
}

impl Shape {
    /// Values per attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }
}

/// Every shape, smallest first; the hidden ones last.
pub fn all() -> Vec<Shape> {
    serde_json::from_str(include_str!("../shapes.json")).expect("shapes.json is checked by a test")
}

/// The shape of a checkpoint by its name, in any case, with or without `LFM2-` in front.
pub fn find(name: &str) -> Option<Shape> {
    let wanted = name.rsplit('/').next().unwrap_or(name);
    let spellings = [wanted.to_owned(), format!("LFM2-{wanted}")];
    let matches = |known: &String| spellings.iter().any(|spelling| known.eq_ignore_ascii_case(spelling));
    all().into_iter().find(|shape| shape.names.iter().any(matches))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_whole() {
        for shape in all() {
            let name = &shape.names[0];
            assert_eq!(shape.hidden % shape.heads, 0, "{name}");
            assert_eq!(shape.heads % shape.kv_heads, 0, "{name}");
            assert!(shape.pattern.chars().all(|layer| layer == 'c' || layer == 'a'), "{name}");
            assert!(shape.hidden % 256 == 0 && shape.feed_forward % 256 == 0, "{name}: whole super-blocks");
        }
    }

    #[test]
    fn names_are_found_as_people_write_them() {
        for (asked, found) in [
            ("LFM2-350M", "LFM2-350M"),
            ("350m", "LFM2-350M"),
            ("LiquidAI/LFM2.5-1.2B-Instruct", "LFM2-1.2B"),
            ("8b-a1b", "LFM2-8B-A1B"),
            ("lfm2.5-8b-a1b", "LFM2.5-8B-A1B"),
        ] {
            assert_eq!(find(asked).map(|shape| shape.names[0].clone()).as_deref(), Some(found), "{asked}");
        }
        assert_eq!(find("LFM2-7B"), None);
    }
}
