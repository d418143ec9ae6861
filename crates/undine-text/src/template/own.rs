//! LFM2's own templates, for a chat model whose files bring none. They are those that are held against the
//! reference's renderings.

/// Of the first generation, which has tool definitions between markers.
pub const LFM2: &str = include_str!("../../tests/templates/lfm2.jinja");
/// Of LFM2.5, which has not.
pub const LFM2_5: &str = include_str!("../../tests/templates/lfm2.5-1.2b.jinja");

/// The own template of a model by its name.
pub fn of_name(name: &str) -> &'static str {
    if name.to_ascii_lowercase().contains("lfm2.5") { LFM2_5 } else { LFM2 }
}
