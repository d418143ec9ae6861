//! The LFM2 hybrid decoder, dense and mixture of experts.
//!
//! ```text
//! x = embed[token]
//! each layer:  x += out( operator( norm x ) )          operator: gated short convolution or attention
//!              x += feed_forward( norm x )             SwiGLU, or a sparse mixture of SwiGLU experts
//! logits = head · norm x
//! ```
//! Source: Liquid AI, "LFM2 Technical Report" (arXiv 2511.23404), and the reference implementation in
//! transformers (models `lfm2` and `lfm2_moe`).

use crate::{BoundFeedForward, Model, Operator, Recorder};

/// Records one forward pass.
pub fn record(model: &Model, r: &mut impl Recorder) {
    let x = r.embed(model.embedding);
    for layer in &model.layers {
        let y = match layer.operator {
            Operator::ShortConv(op) => r.norm_short_conv(x, op),
            Operator::Attention(op) => {
                let query = r.norm_qkv(x, op);
                r.attend(query, op.layer)
            }
        };
        r.linear_add(y, layer.out, x);
        match layer.feed_forward {
            BoundFeedForward::Dense { swiglu, down } => {
                let h = r.norm_swiglu(x, swiglu);
                r.linear_add(h, down, x);
            }
            BoundFeedForward::Moe(op) => r.norm_moe_add(x, op),
        }
    }
    let wanted = r.select_rows(x);
    let logits = r.norm_logits(wanted, model.final_norm, model.head);
    r.sample(logits);
}
