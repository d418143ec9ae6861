//! The recorded tower: operations over buffers, one for each role that rows can have.

use undine_core::VisionConfig;
use undine_model::vision::{LayerNorm, LinearGelu, VisionQkv, VisionRecorder};
use undine_model::{Linear, MatrixId, Rows, VisionModel};

use crate::kernels::activations::ActivationKinds;

/// One recorded verb: the arguments and the result of the [`VisionRecorder`] method of its name.
#[derive(Clone, Copy, Debug)]
pub enum VisionOp {
    EmbedPatches { op: Linear, y: Rows },
    NormQkv { x: Rows, op: VisionQkv, y: Rows },
    Attend { qkv: Rows, y: Rows },
    LinearAdd { x: Rows, op: Linear, residual: Rows },
    LinearGelu { x: Rows, op: LinearGelu, y: Rows },
    NormUnshuffle { x: Rows, norm: LayerNorm, y: Rows },
    Project { x: Rows, op: Linear, y: Rows },
}

/// What rows a buffer has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    Patches,
    Tokens,
}

/// What a buffer holds. The tower uses each before it makes the next of the same kind, so that layers share
/// them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Residual,
    Qkv,
    Attended,
    Hidden,
    Tokens,
    Projected,
}

/// A buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffer {
    role: Role,
    /// Values in a row.
    pub width: usize,
    /// Rows.
    pub length: Length,
}

/// A recorded pass.
#[derive(Debug)]
pub struct VisionPlan {
    /// What to do, in order.
    pub ops: Vec<VisionOp>,
    /// By handle.
    pub buffers: Vec<Buffer>,
    /// Widest input of any matrix product.
    pub input_width: usize,
    /// Input kinds of any matrix product.
    pub kinds: ActivationKinds,
    /// Where the result is.
    pub result: Rows,
}

impl VisionPlan {
    /// Records `model`.
    pub fn new(model: &VisionModel) -> Self {
        let mut recorder = PlanRecorder {
            config: model.config(),
            model,
            ops: Vec::new(),
            buffers: Vec::new(),
            result: Rows(0),
        };
        undine_model::vision::record(model, &mut recorder);
        let matrices = (0..model.matrix_count()).map(|i| *model.matrix(MatrixId(i as u32)));
        Self {
            kinds: ActivationKinds::of(matrices.clone().map(|weight| weight.dtype)),
            input_width: matrices.map(|weight| weight.cols).max().unwrap_or(0),
            ops: recorder.ops,
            buffers: recorder.buffers,
            result: recorder.result,
        }
    }
}

struct PlanRecorder<'a> {
    config: &'a VisionConfig,
    model: &'a VisionModel,
    ops: Vec<VisionOp>,
    buffers: Vec<Buffer>,
    result: Rows,
}

impl PlanRecorder<'_> {
    /// The buffer of this role, made when first asked for.
    fn rows(&mut self, role: Role, width: usize, length: Length) -> Rows {
        let buffer = Buffer { role, width, length };
        let at = self.buffers.iter().position(|&made| made == buffer).unwrap_or_else(|| {
            self.buffers.push(buffer);
            self.buffers.len() - 1
        });
        Rows(at as u32)
    }
}

impl VisionRecorder for PlanRecorder<'_> {
    fn embed_patches(&mut self, op: Linear, positions: MatrixId) -> Rows {
        assert_eq!(positions, self.model.positions, "the executor keeps one position table");
        let y = self.rows(Role::Residual, self.config.width, Length::Patches);
        self.ops.push(VisionOp::EmbedPatches { op, y });
        y
    }

    fn norm_qkv(&mut self, x: Rows, op: VisionQkv) -> Rows {
        let y = self.rows(Role::Qkv, 3 * self.config.width, Length::Patches);
        self.ops.push(VisionOp::NormQkv { x, op, y });
        y
    }

    fn attend(&mut self, qkv: Rows) -> Rows {
        let y = self.rows(Role::Attended, self.config.width, Length::Patches);
        self.ops.push(VisionOp::Attend { qkv, y });
        y
    }

    fn linear_add(&mut self, x: Rows, op: Linear, residual: Rows) {
        self.ops.push(VisionOp::LinearAdd { x, op, residual });
    }

    fn linear_gelu(&mut self, x: Rows, op: LinearGelu) -> Rows {
        let length = self.buffers[x.0 as usize].length;
        let y = self.rows(Role::Hidden, self.model.matrix(op.linear.weight).rows, length);
        self.ops.push(VisionOp::LinearGelu { x, op, y });
        y
    }

    fn norm_unshuffle(&mut self, x: Rows, norm: LayerNorm) -> Rows {
        let y = self.rows(Role::Tokens, self.config.token_elems(), Length::Tokens);
        self.ops.push(VisionOp::NormUnshuffle { x, norm, y });
        y
    }

    fn project(&mut self, x: Rows, op: Linear) {
        let y = self.rows(Role::Projected, self.config.hidden, Length::Tokens);
        self.ops.push(VisionOp::Project { x, op, y });
        self.result = y;
    }
}
