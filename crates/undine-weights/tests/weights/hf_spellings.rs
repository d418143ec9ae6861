//! Every generation of config.json and tensor names means the same model.

use serde_json::{Value as Json, json};
use undine_core::{FeedForward, LayerKind};
use undine_weights::{ExpertPart, LayerWeight, WeightName};

use crate::tiny::{EXPERT_WIDTH, EXPERTS, Folder, HIDDEN, VOCAB, WIDTH, f32_bytes, refused, values};

fn with(changes: &[(&str, Json)]) -> Folder {
    let mut folder = Folder::dense();
    for (key, value) in changes {
        folder.config[*key] = value.clone();
    }
    folder
}

#[test]
fn spellings_of_the_same_model() {
    let expected = Folder::dense().open().unwrap().config().clone();
    assert_eq!(expected.layers, [LayerKind::Conv, LayerKind::FullAttention]);
    let null = Json::Null;
    let cases: [&[(&str, Json)]; 9] = [
        &[("layer_types", null.clone()), ("full_attn_idxs", json!([1]))],
        &[("layer_types", null.clone()), ("full_attn_idxs", json!([1.0]))],
        &[("rope_parameters", null.clone()), ("rope_theta", json!(1_000_000))],
        &[("norm_eps", null.clone()), ("block_norm_eps", json!(1e-5))],
        &[("tie_word_embeddings", json!(false)), ("tie_embedding", json!(true))],
        &[("head_dim", json!(4))],
        &[("block_ff_dim", json!(WIDTH)), ("intermediate_size", json!(999))],
        // 2 * 18 / 3 = 12, and 12 is a multiple of 4.
        &[
            ("intermediate_size", json!(18)),
            ("block_auto_adjust_ff_dim", json!(true)),
            ("block_multiple_of", json!(4)),
        ],
        &[
            ("intermediate_size", json!(18)),
            ("block_auto_adjust_ff_dim", json!(true)),
            ("block_ffn_dim_multiplier", null.clone()),
        ],
    ];
    for changes in cases {
        let checkpoint = with(changes).open().unwrap();
        assert_eq!(checkpoint.config(), &expected, "{changes:?}");
        assert_eq!(checkpoint.repairs(), &[] as &[String], "{changes:?}");
    }
}

#[test]
fn the_tensor_decides_the_feed_forward_width() {
    let checkpoint = with(&[("intermediate_size", json!(13))]).open().unwrap();
    assert_eq!(checkpoint.config().feed_forward, [FeedForward::Dense { width: WIDTH }; 2]);
    let [repair] = checkpoint.repairs() else { panic!("one repair, not {:?}", checkpoint.repairs()) };
    assert!(repair.contains("13") && repair.contains("feed_forward.w1.weight"), "{repair}");
}

#[test]
fn published_widths() {
    for (block_ff_dim, width) in [(6656, 4608), (10240, 6912), (12288, 8192)] {
        let message = with(&[
            ("block_ff_dim", json!(block_ff_dim)),
            ("block_auto_adjust_ff_dim", json!(true)),
            ("block_ffn_dim_multiplier", json!(1.0)),
            ("block_multiple_of", json!(256)),
        ]);
        let checkpoint = message.open().unwrap();
        assert!(
            checkpoint.repairs()[0].contains(&format!("width of {width},")),
            "{:?}",
            checkpoint.repairs()
        );
    }
}

#[test]
fn prefixes() {
    for prefix in ["", "model.language_model.", "language_model.model.", "language_model.", "lfm."] {
        let mut folder = Folder::dense();
        folder.rename_all(|name| name.replacen("model.", prefix, 1));
        let checkpoint = folder.open().unwrap_or_else(|error| panic!("{prefix:?}: {error}"));
        assert!(checkpoint.weight(WeightName::FinalNorm).is_some());
    }
}

#[test]
fn vision_models_nest_their_text_config() {
    let mut folder = Folder::dense();
    folder.rename_all(|name| name.replacen("model.", "model.language_model.", 1));
    let text = std::mem::take(&mut folder.config);
    for model_type in ["lfm2_vl", "lfm2-vl"] {
        folder.config = json!({
            "architectures": ["Lfm2VlForConditionalGeneration"],
            "model_type": model_type,
            "text_config": text,
            "vision_config": {"hidden_size": 768, "num_attention_heads": 12},
        });
        let checkpoint = folder.open().unwrap();
        assert_eq!(checkpoint.config().hidden, HIDDEN);
        assert_eq!(checkpoint.special_tokens().eos, [4]);
    }
}

#[test]
fn packings_that_are_not_read_are_named_with_a_way_out() {
    let message = refused(
        with(&[("quantization_config", json!({"quant_method": "bitsandbytes", "load_in_4bit": true}))])
            .open(),
    );
    assert!(message.contains("bitsandbytes 4-bit; load the folder with transformers"), "{message}");
    let mut folder = Folder::dense();
    folder.tensors.push((
        "model.layers.0.feed_forward.w1.weight.quant_state.bitsandbytes__nf4".to_owned(),
        "U8",
        vec![4],
        vec![0; 4],
    ));
    let message = refused(folder.open());
    assert!(message.contains("bitsandbytes 4-bit (NF4)") && message.contains("dequantize()"), "{message}");
}

#[test]
fn words_that_training_programs_put_around_names_do_not_count() {
    let expected = Folder::dense().open().unwrap();
    for (from, to) in [
        ("model.", "_orig_mod.model."),
        ("model.", "module.model."),
        ("model.", "module._orig_mod.model."),
        ("model.", "base_model.model.model."),
        ("model.layers.0.", "model.layers.0._orig_mod."),
        ("model.", "model._fsdp_wrapped_module."),
    ] {
        let mut folder = Folder::dense();
        folder.rename_all(|name| name.replacen(from, to, 1));
        let checkpoint = folder.open().unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!(checkpoint.config(), expected.config(), "{to}");
        assert_eq!(checkpoint.repairs(), &[] as &[String], "{to}");
    }
    // Of no known program: said aloud.
    let mut folder = Folder::dense();
    folder.rename_all(|name| format!("backbone.{name}"));
    let checkpoint = folder.open().unwrap();
    let [repair] = checkpoint.repairs() else { panic!("one repair, not {:?}", checkpoint.repairs()) };
    assert!(repair.contains("backbone.model."), "{repair}");
    // Two names that are one without them.
    let mut folder = Folder::dense();
    let (_, kind, shape, data) = folder.tensors[0].clone();
    let name = format!("module.{}", folder.tensors[0].0);
    folder.tensors.push((name, kind, shape, data));
    assert!(refused(folder.open()).contains("appears twice"));
}

#[test]
fn tied_and_untied_heads() {
    let mut folder = Folder::dense();
    folder.add_f32("lm_head.weight", vec![VOCAB, HIDDEN]);
    assert_eq!(folder.open().unwrap().weight(WeightName::Head), None, "tied: the head tensor is not used");
    folder.config["tie_word_embeddings"] = json!(false);
    assert!(folder.open().unwrap().weight(WeightName::Head).is_some());
    let checkpoint = with(&[("tie_embedding", json!(false))]).open().unwrap();
    assert_eq!(checkpoint.weight(WeightName::Head), None);
    assert!(checkpoint.repairs()[0].contains("lm_head.weight is absent"), "{:?}", checkpoint.repairs());
}

#[test]
fn convolution_biases() {
    let mut folder = with(&[("conv_bias", json!(true))]);
    let message = refused(folder.open());
    assert!(message.contains("model.layers.0.conv.in_proj.bias is missing"), "{message}");
    folder.add_f32("model.layers.0.conv.in_proj.bias", vec![3 * HIDDEN]);
    folder.add_f32("model.layers.0.conv.conv.bias", vec![HIDDEN]);
    folder.add_f32("model.layers.0.conv.out_proj.bias", vec![HIDDEN]);
    let checkpoint = folder.open().unwrap();
    let bias = checkpoint.weight(WeightName::Layer(0, LayerWeight::ConvInBias)).unwrap();
    assert_eq!((bias.rows, bias.cols), (1, 3 * HIDDEN));
}

#[test]
fn packed_experts_equal_single_ones() {
    let single = Folder::moe();
    let mut packed = Folder::moe_without_experts();
    let data = |expert: usize, part: &str| {
        let name = format!("model.layers.1.feed_forward.experts.{expert}.{part}.weight");
        single.tensors.iter().find(|(other, ..)| *other == name).unwrap().3.clone()
    };
    let gate_up = (0..EXPERTS).flat_map(|expert| [data(expert, "w1"), data(expert, "w3")].concat()).collect();
    let down = (0..EXPERTS).flat_map(|expert| data(expert, "w2")).collect();
    let prefix = "model.layers.1.feed_forward.experts";
    packed.tensors.push((
        format!("{prefix}.gate_up_proj"),
        "F32",
        vec![EXPERTS, 2 * EXPERT_WIDTH, HIDDEN],
        gate_up,
    ));
    packed.tensors.push((format!("{prefix}.down_proj"), "F32", vec![EXPERTS, HIDDEN, EXPERT_WIDTH], down));
    let (single, packed) = (single.open().unwrap(), packed.open().unwrap());
    assert_eq!(single.config(), packed.config());
    assert_eq!(single.config().moe.unwrap().width, EXPERT_WIDTH);
    for expert in 0..EXPERTS {
        for part in [ExpertPart::Gate, ExpertPart::Up, ExpertPart::Down] {
            let name = WeightName::Expert { layer: 1, expert, part };
            let (a, b) = (single.weight(name).unwrap(), packed.weight(name).unwrap());
            assert_eq!((a.rows, a.cols, single.bytes(&a)), (b.rows, b.cols, packed.bytes(&b)), "{name:?}");
        }
    }
}

#[test]
fn missing_experts_name_both_spellings() {
    let message = refused(Folder::moe_without_experts().open());
    assert!(
        message.contains("experts.0.w1.weight is missing") && message.contains("experts.gate_up_proj"),
        "{message}"
    );
}

#[test]
fn expert_bias() {
    for suffix in [".weight", ".bias"] {
        let mut folder = Folder::moe();
        folder.rename_all(|name| name.replace("expert_bias", &format!("expert_bias{suffix}")));
        assert!(folder.open().unwrap().weight(WeightName::Layer(1, LayerWeight::ExpertBias)).is_some());
    }
    let mut folder = Folder::moe();
    folder.tensors.retain(|(name, ..)| !name.ends_with("expert_bias"));
    assert!(refused(folder.open()).contains("expert_bias is missing"));
    folder.config["use_expert_bias"] = json!(false);
    assert!(folder.open().unwrap().weight(WeightName::Layer(1, LayerWeight::ExpertBias)).is_none());
}

#[test]
fn weights_are_where_the_header_says() {
    let folder = Folder::dense();
    let checkpoint = folder.open().unwrap();
    let place =
        folder.tensors.iter().position(|(name, ..)| name == "model.layers.1.feed_forward.w2.weight").unwrap();
    let down = checkpoint.weight(WeightName::Layer(1, LayerWeight::Down)).unwrap();
    assert_eq!((down.rows, down.cols), (HIDDEN, WIDTH));
    assert_eq!(checkpoint.bytes(&down), f32_bytes(&values(place, HIDDEN * WIDTH)));
}

#[test]
fn unsupported_configurations() {
    for (key, value, expected) in [
        ("model_type", json!("lfm3"), "\"lfm3\""),
        ("architectures", json!(["Lfm2BidirectionalModel"]), "bidirectional"),
        ("is_causal", json!(false), "bidirectional"),
        ("layer_types", json!(["conv", "sliding_attention"]), "sliding_attention"),
        ("layer_types", json!(["conv"]), "expected one entry for each of 2 layers, found 1"),
        ("layer_types", json!("conv"), "layer_types: expected a list"),
        ("rope_parameters", json!({"rope_type": "yarn", "rope_theta": 1e6}), "rope_type \"yarn\""),
        ("rope_parameters", json!({"rope_theta": "big"}), "rope_parameters.rope_theta"),
        ("rope_scaling", json!({"type": "linear", "factor": 2.0}), "rope_scaling.type \"linear\""),
        ("hidden_size", json!(null), "hidden_size: the key is required"),
        ("hidden_size", json!(-8), "hidden_size: expected a non-negative integer, found -8"),
        ("hidden_size", json!(1e30), "hidden_size: expected a non-negative integer"),
        ("hidden_size", json!("eight"), "hidden_size"),
        ("num_hidden_layers", json!(1_000_000_000), "num_hidden_layers"),
        ("num_attention_heads", json!(3), "head_dim: absent, and 3 heads"),
        ("num_key_value_heads", json!(0), "key-value heads: expected 1 to"),
        ("vocab_size", json!(11), "model.embed_tokens.weight has shape [10, 8], expected [11, 8]"),
        ("norm_eps", json!(0), "norm epsilon: expected a positive number"),
        ("tie_word_embeddings", json!(2), "tie_word_embeddings: expected true or false"),
    ] {
        let message = refused(with(&[(key, value)]).open());
        assert!(message.contains(expected), "{key}: {message:?} should contain {expected:?}");
    }
    let folder = with(&[("layer_types", json!(null)), ("full_attn_idxs", json!([2]))]);
    assert!(refused(folder.open()).contains("full_attn_idxs: expected layer numbers below 2, found 2"));
}
