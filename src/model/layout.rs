//! The weights that a Mixtral has, by name and shape, known from its configuration alone.

use super::Config;

impl Config {
    /// Every weight under the name that transformers v4 gives it, layer by layer. Two dimensions are [out, in], and for
    /// the embedding [tokens, width].
    pub fn weights(&self) -> Vec<(String, Vec<usize>)> {
        let (width, inner) = (self.hidden_size, self.intermediate_size);
        let queries = self.num_attention_heads * self.head_dim;
        let keys = self.num_key_value_heads * self.head_dim;
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[usize]| all.push((format!("{name}.weight"), shape.to_vec()));
        add("model.embed_tokens".to_owned(), &[self.vocab_size, width]);
        for layer in (0..self.num_hidden_layers).map(|layer| format!("model.layers.{layer}")) {
            add(format!("{layer}.input_layernorm"), &[width]);
            add(format!("{layer}.self_attn.q_proj"), &[queries, width]);
            add(format!("{layer}.self_attn.k_proj"), &[keys, width]);
            add(format!("{layer}.self_attn.v_proj"), &[keys, width]);
            add(format!("{layer}.self_attn.o_proj"), &[width, queries]);
            add(format!("{layer}.post_attention_layernorm"), &[width]);
            add(format!("{layer}.block_sparse_moe.gate"), &[self.num_local_experts, width]);
            for expert in 0..self.num_local_experts {
                let expert = format!("{layer}.block_sparse_moe.experts.{expert}");
                add(format!("{expert}.w1"), &[inner, width]);
                add(format!("{expert}.w2"), &[width, inner]);
                add(format!("{expert}.w3"), &[inner, width]);
            }
        }
        add("model.norm".to_owned(), &[width]);
        add("lm_head".to_owned(), &[self.vocab_size, width]);
        all
    }
}
