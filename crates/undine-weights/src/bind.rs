//! Finds every weight the configuration requires and checks its exact shape.

use std::collections::HashMap;

use undine_core::{Config, FeedForward, LayerKind};

use crate::Error;
use crate::declared::{Declared, DeclaredMoe, Presence, within};
use crate::limits::WIDTH_MAX;
use crate::names::{GGUF_FINAL_NORM_OLLAMA, Names, PackedExpert};
use crate::tensor::{Tensor, TensorTable, trim_leading_ones};
use crate::weight::{ExpertPart, LayerWeight, Weight, WeightName};

/// A configuration and all its weights.
pub(crate) struct Bound {
    pub config: Config,
    pub weights: HashMap<WeightName, Weight>,
}

/// Binds `declared` to the tensors of `table`; repairs add a sentence each.
pub(crate) fn bind(
    declared: &Declared,
    table: &TensorTable,
    names: Names,
    repairs: &mut Vec<String>,
) -> Result<Bound, Error> {
    declared.check()?;
    let mut binder = Binder { table, names, weights: HashMap::new(), repairs };
    let hidden = declared.hidden;
    binder.matrix(WeightName::TokenEmbedding, declared.vocab, hidden)?;
    binder.final_norm(hidden)?;
    if declared.head == Presence::Required && binder.optional(WeightName::Head)?.is_none() {
        let name = names.spellings(WeightName::Head).swap_remove(0);
        binder.repairs.push(format!(
            "The configuration has a head of its own, but {name} is absent; the token embedding is used, as in every LFM2 model."
        ));
    } else if binder.wanted(declared.head, WeightName::Head)? {
        binder.matrix(WeightName::Head, declared.vocab, hidden)?;
    }
    let mut feed_forward = Vec::with_capacity(declared.layers.len());
    let mut moe_width = None;
    for (layer, &kind) in declared.layers.iter().enumerate() {
        binder.vector(WeightName::Layer(layer, LayerWeight::OperatorNorm), hidden)?;
        binder.vector(WeightName::Layer(layer, LayerWeight::FfnNorm), hidden)?;
        match kind {
            LayerKind::Conv => binder.conv(layer, declared)?,
            LayerKind::FullAttention => binder.attention(layer, declared)?,
        }
        match &declared.moe {
            Some(moe) if layer >= moe.dense_layers => {
                let width = binder.moe(layer, hidden, moe, moe_width)?;
                moe_width = Some(width);
                feed_forward.push(FeedForward::Moe);
            }
            _ => {
                feed_forward.push(FeedForward::Dense { width: binder.dense(layer, declared, &feed_forward)? })
            }
        }
    }
    let config = declared.config(feed_forward, moe_width);
    Ok(Bound { config, weights: binder.weights })
}

struct Binder<'a> {
    table: &'a TensorTable,
    names: Names,
    weights: HashMap<WeightName, Weight>,
    repairs: &'a mut Vec<String>,
}

impl<'a> Binder<'a> {
    fn optional(&self, name: WeightName) -> Result<Option<&'a Tensor>, Error> {
        let index = self.table.find(&self.names.spellings(name))?;
        Ok(index.map(|index| &self.table.tensors[index]))
    }

    fn required(&self, name: WeightName) -> Result<&'a Tensor, Error> {
        self.optional(name)?.ok_or_else(|| self.missing(name, ""))
    }

    fn missing(&self, name: WeightName, hint: &str) -> Error {
        let name = self.names.spellings(name).swap_remove(0);
        Error::MissingTensor { name, hint: hint.to_owned() }
    }

    fn wanted(&self, presence: Presence, name: WeightName) -> Result<bool, Error> {
        Ok(match presence {
            Presence::Required => true,
            Presence::Absent => false,
            Presence::IfPresent => self.optional(name)?.is_some(),
        })
    }

    /// A matrix of `rows x cols`.
    fn matrix(&mut self, name: WeightName, rows: usize, cols: usize) -> Result<(), Error> {
        let tensor = self.required(name)?;
        check_shape(tensor, &[rows, cols])?;
        self.weights.insert(name, weight(tensor, rows, cols, 0));
        Ok(())
    }

    /// A vector of `len` values, in a float type.
    fn vector(&mut self, name: WeightName, len: usize) -> Result<(), Error> {
        let tensor = self.required(name)?;
        check_shape(tensor, &[len])?;
        check_float(tensor)?;
        self.weights.insert(name, weight(tensor, 1, len, 0));
        Ok(())
    }

    fn final_norm(&mut self, hidden: usize) -> Result<(), Error> {
        self.vector(WeightName::FinalNorm, hidden)?;
        let tensor = self.required(WeightName::FinalNorm)?;
        if tensor.name == GGUF_FINAL_NORM_OLLAMA {
            self.repairs.push(
                "The final norm is stored as output_norm.weight instead of token_embd_norm.weight."
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn conv(&mut self, layer: usize, declared: &Declared) -> Result<(), Error> {
        use LayerWeight as L;
        let (hidden, taps) = (declared.hidden, declared.conv_taps);
        self.matrix(WeightName::Layer(layer, L::ConvIn), 3 * hidden, hidden)?;
        self.matrix(WeightName::Layer(layer, L::ConvOut), hidden, hidden)?;
        let name = WeightName::Layer(layer, L::Conv);
        let tensor = self.required(name)?;
        // Hugging Face keeps the middle dimension of a depthwise convolution, MLX has it last, GGUF not at
        // all.
        if tensor.shape != [hidden, 1, taps] && tensor.shape != [hidden, taps, 1] {
            check_shape(tensor, &[hidden, taps])?;
        }
        check_float(tensor)?;
        self.weights.insert(name, weight(tensor, hidden, taps, 0));
        for (bias, len) in [(L::ConvInBias, 3 * hidden), (L::ConvBias, hidden), (L::ConvOutBias, hidden)] {
            let name = WeightName::Layer(layer, bias);
            if self.wanted(declared.conv_bias, name)? {
                self.vector(name, len)?;
            }
        }
        Ok(())
    }

    fn attention(&mut self, layer: usize, declared: &Declared) -> Result<(), Error> {
        use LayerWeight as L;
        let hidden = declared.hidden;
        let query = declared.heads * declared.head_dim;
        let key = declared.kv_heads * declared.head_dim;
        for (part, rows, cols) in [
            (L::Query, query, hidden),
            (L::Key, key, hidden),
            (L::Value, key, hidden),
            (L::AttentionOut, hidden, query),
        ] {
            self.matrix(WeightName::Layer(layer, part), rows, cols)?;
        }
        self.vector(WeightName::Layer(layer, L::QueryNorm), declared.head_dim)?;
        self.vector(WeightName::Layer(layer, L::KeyNorm), declared.head_dim)
    }

    /// Binds a dense feed-forward and returns its width: that of the tensor, because files with a wrong one
    /// are in use.
    fn dense(&mut self, layer: usize, declared: &Declared, before: &[FeedForward]) -> Result<usize, Error> {
        use LayerWeight as L;
        let gate = self.required(WeightName::Layer(layer, L::Gate))?;
        let width = match *gate.shape_trimmed() {
            [width, hidden] if hidden == declared.hidden => width,
            _ => return Err(shape_error(gate, &[declared.dense_width.unwrap_or(0), declared.hidden])),
        };
        within("feed-forward width", width, WIDTH_MAX)?;
        let first_of_its_kind = !before.contains(&FeedForward::Dense { width });
        if declared.dense_width.is_some_and(|declared| declared != width) && first_of_its_kind {
            self.repairs.push(format!(
                "The configuration means a feed-forward width of {}, but {} has {width} rows.",
                declared.dense_width.unwrap_or(0),
                gate.name
            ));
        }
        self.matrix(WeightName::Layer(layer, L::Gate), width, declared.hidden)?;
        self.matrix(WeightName::Layer(layer, L::Up), width, declared.hidden)?;
        self.matrix(WeightName::Layer(layer, L::Down), declared.hidden, width)?;
        Ok(width)
    }

    /// Binds a mixture of experts and returns the width of an expert; `width` is that of the layers before.
    fn moe(
        &mut self,
        layer: usize,
        hidden: usize,
        moe: &DeclaredMoe,
        width: Option<usize>,
    ) -> Result<usize, Error> {
        self.matrix(WeightName::Layer(layer, LayerWeight::Router), moe.experts, hidden)?;
        let bias = WeightName::Layer(layer, LayerWeight::ExpertBias);
        if self.wanted(moe.expert_bias, bias)? {
            self.vector(bias, moe.experts)?;
        }
        let width = match width {
            Some(width) => width,
            None => self.expert_width(layer, moe)?,
        };
        for part in [ExpertPart::Gate, ExpertPart::Up, ExpertPart::Down] {
            let (rows, cols) = match part {
                ExpertPart::Gate | ExpertPart::Up => (width, hidden),
                ExpertPart::Down => (hidden, width),
            };
            self.experts(layer, part, moe.experts, rows, cols)?;
        }
        Ok(width)
    }

    /// The first tensor that holds a matrix of all experts of a layer, and where in it this part is.
    fn packed(&self, layer: usize, part: ExpertPart) -> Result<Option<(PackedExpert, &'a Tensor)>, Error> {
        for packed in self.names.packed_expert(layer, part) {
            if let Some(index) = self.table.find(&packed.spellings)? {
                return Ok(Some((packed, &self.table.tensors[index])));
            }
        }
        Ok(None)
    }

    fn expert_width(&mut self, layer: usize, moe: &DeclaredMoe) -> Result<usize, Error> {
        let (found, name) = match self.packed(layer, ExpertPart::Gate)? {
            Some((packed, tensor)) => match *tensor.shape.as_slice() {
                [_, rows, _] => (rows / packed.parts, &tensor.name),
                // One expert: the outer dimension may have been dropped.
                [rows, _] => (rows / packed.parts, &tensor.name),
                _ => return Err(shape_error(tensor, &[moe.experts, 0, 0])),
            },
            None => {
                let tensor = self.first_expert(layer)?;
                (tensor.shape.first().copied().unwrap_or(0), &tensor.name)
            }
        };
        within("expert feed-forward width", found, WIDTH_MAX)?;
        if let Some(declared) = moe.width.filter(|&declared| declared != found) {
            self.repairs.push(format!(
                "The configuration says an expert feed-forward width of {declared}, but {name} means {found}."
            ));
        }
        Ok(found)
    }

    fn first_expert(&self, layer: usize) -> Result<&'a Tensor, Error> {
        let name = WeightName::Expert { layer, expert: 0, part: ExpertPart::Gate };
        let hint = match self.names {
            Names::Gguf => String::new(),
            Names::HuggingFace { .. } => {
                let packed = self.names.packed_expert(layer, ExpertPart::Gate);
                format!(" (or packed, as {})", packed[0].spellings[0])
            }
        };
        self.optional(name)?.ok_or_else(|| self.missing(name, &hint))
    }

    /// One matrix of every expert of a layer: packed in one tensor, or one tensor each.
    fn experts(
        &mut self,
        layer: usize,
        part: ExpertPart,
        experts: usize,
        rows: usize,
        cols: usize,
    ) -> Result<(), Error> {
        if let Some((packed, tensor)) = self.packed(layer, part)? {
            check_shape(tensor, &[experts, packed.parts * rows, cols])?;
            for expert in 0..experts {
                let first_row = (expert * packed.parts + packed.part) * rows;
                let name = WeightName::Expert { layer, expert, part };
                self.weights.insert(name, weight(tensor, rows, cols, first_row));
            }
            return Ok(());
        }
        (0..experts)
            .try_for_each(|expert| self.matrix(WeightName::Expert { layer, expert, part }, rows, cols))
    }
}

/// The view of `rows x cols` values of a tensor whose shape has been checked, from `first_row` on.
pub(crate) fn weight(tensor: &Tensor, rows: usize, cols: usize, first_row: usize) -> Weight {
    let row_bytes =
        tensor.dtype.row_bytes(cols).expect("the tensor was placed, so its rows are whole blocks");
    let start = tensor.bytes.start + first_row * row_bytes;
    let len = rows * row_bytes;
    assert!(start + len <= tensor.bytes.end, "a weight lies inside its tensor");
    Weight { dtype: tensor.dtype, rows, cols, file: tensor.file, start, len }
}

pub(crate) fn check_shape(tensor: &Tensor, expected: &[usize]) -> Result<(), Error> {
    if tensor.shape_trimmed() == trim_leading_ones(expected) {
        Ok(())
    } else {
        Err(shape_error(tensor, expected))
    }
}

fn shape_error(tensor: &Tensor, expected: &[usize]) -> Error {
    Error::Shape { name: tensor.name.clone(), expected: expected.to_vec(), found: tensor.shape.clone() }
}

pub(crate) fn check_float(tensor: &Tensor) -> Result<(), Error> {
    if tensor.dtype.is_float() {
        return Ok(());
    }
    let (found, expected) = (tensor.dtype.to_string(), "F32, F16 or BF16".to_owned());
    Err(Error::TensorType { name: tensor.name.clone(), found, expected })
}

#[cfg(test)]
mod tests {
    use undine_core::DType;

    use super::*;

    #[test]
    fn small_weights_must_be_floats() {
        let tensor =
            |dtype| Tensor { name: "norm".to_owned(), dtype, shape: vec![32], file: 0, bytes: 0..34 };
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            assert!(check_float(&tensor(dtype)).is_ok());
        }
        let message = check_float(&tensor(DType::Q8_0)).map_err(|error| error.to_string());
        assert_eq!(message, Err("tensor norm has type Q8_0, expected F32, F16 or BF16".to_owned()));
    }

    #[test]
    fn outer_dimensions_of_one_do_not_count() {
        let tensor = |shape: &[usize]| Tensor {
            name: "t".to_owned(),
            dtype: DType::F32,
            shape: shape.to_vec(),
            file: 0,
            bytes: 0..0,
        };
        for (found, expected, same) in [
            (&[1, 1, 8][..], &[8][..], true),
            (&[8, 4], &[1, 8, 4], true),
            (&[1, 8, 4], &[1, 8, 4], true),
            (&[8, 1], &[8], false),
            (&[4, 8], &[8, 4], false),
            (&[1], &[1, 1], true),
        ] {
            assert_eq!(check_shape(&tensor(found), expected).is_ok(), same, "{found:?} for {expected:?}");
        }
    }
}
