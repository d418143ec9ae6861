//! What a template is once it is parsed.

use std::sync::Arc;

use num_bigint::BigInt;

use super::filters::Filter;
use super::tests::Test;

/// A name of a variable, as its place among those of the template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Symbol(pub u32);

#[derive(Clone, Debug)]
pub enum Constant {
    None,
    Bool(bool),
    Int(i64),
    Big(Arc<BigInt>),
    Float(f64),
    Text(Arc<str>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}

#[derive(Debug)]
pub enum Expr {
    Constant(Constant),
    Name(Symbol),
    Tuple(Vec<Expr>),
    List(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// The part after `if`, the one before it, the one after `else`.
    Conditional(Box<(Expr, Expr, Option<Expr>)>),
    Or(Box<[Expr; 2]>),
    And(Box<[Expr; 2]>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Binary(Operator, Box<[Expr; 2]>),
    /// All sides of `a ~ b ~ c`.
    Concat(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    Attribute(Box<Expr>, Arc<str>),
    Item(Box<[Expr; 2]>),
    /// What is sliced; start, stop and step.
    Slice(Box<(Expr, [Option<Expr>; 3])>),
    Call(Box<Expr>, Box<Args>),
    Filter(Box<Expr>, Arc<str>, Option<Filter>, Box<Args>),
    Test(Box<Expr>, Arc<str>, Option<Test>, Box<Args>),
    /// The text of the block that a filter is for.
    Captured,
}

/// What a call is given.
#[derive(Debug, Default)]
pub struct Args {
    pub positional: Vec<Expr>,
    pub named: Vec<(Arc<str>, Expr)>,
    /// `*list`.
    pub list: Option<Expr>,
    /// `**dict`.
    pub dict: Option<Expr>,
}

#[derive(Debug)]
pub enum Target {
    Name(Symbol),
    Tuple(Vec<Target>),
    /// `namespace.attribute`.
    Attribute(Symbol, Arc<str>),
}

impl Target {
    /// Whether it assigns to a name.
    pub fn names(&self, symbol: Symbol) -> bool {
        match self {
            Self::Name(name) => *name == symbol,
            Self::Tuple(targets) => targets.iter().any(|target| target.names(symbol)),
            Self::Attribute(..) => false,
        }
    }
}

#[derive(Debug)]
pub struct Stmt {
    pub line: u32,
    pub kind: StmtKind,
}

#[derive(Debug)]
pub enum StmtKind {
    Text(String),
    Print(Vec<Expr>),
    /// Conditions with what each is for, and what comes if none holds.
    If(Vec<(Expr, Vec<Stmt>)>, Vec<Stmt>),
    For(Arc<For>),
    Set(Target, Expr),
    /// The target, the filters around [`Expr::Captured`], the block.
    SetBlock(Target, Expr, Vec<Stmt>),
    With(Vec<(Target, Expr)>, Vec<Stmt>),
    Macro(Symbol, Arc<Macro>),
    /// What is called, with the block as a macro.
    Call(Expr, Arc<Macro>),
    Filter(Expr, Vec<Stmt>),
    /// What is set in it stays in it: `{% generation %}`, `{% autoescape %}`.
    Scope(Vec<Stmt>),
    /// `{% block %}`, which sees the variables of the template only.
    Block(Vec<Stmt>),
    Break,
    Continue,
}

#[derive(Debug)]
pub struct For {
    pub target: Target,
    pub items: Expr,
    pub test: Option<Expr>,
    pub recursive: Recursive,
    pub body: Vec<Stmt>,
    pub otherwise: Vec<Stmt>,
    /// The body asks for `loop`.
    pub loop_named: LoopNamed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recursive {
    Yes,
    No,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoopNamed {
    Yes,
    No,
}

/// The parameters of a macro, each with its default.
pub type Parameters = Vec<(Symbol, Arc<str>, Option<Expr>)>;

#[derive(Debug)]
pub struct Macro {
    pub name: Arc<str>,
    pub parameters: Parameters,
    pub body: Vec<Stmt>,
    /// Which of `caller`, `kwargs` and `varargs` the body names: it takes what these stand for.
    pub takes: Takes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Takes {
    pub caller: bool,
    pub kwargs: bool,
    pub varargs: bool,
}
