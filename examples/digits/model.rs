//! The experts: an encoder each, two coupling layers between them, a head each.
//!
//! Features stay expert-major, `[experts, images, width]`, as the batched matrix products of encoders and
//! heads want them; the coupling gets the transposed view `[images, experts, width]`.

use std::collections::HashMap;

use anyhow::Result;
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{Linear, VarBuilder};
use hyperscatter::{Batch, Incidence};
use hyperscatter_candle::{HypergraphConv, HypergraphConvConfig, WeightParametrization, hypergraph_conv};
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::args::{Execution, Settings, WeightKind};
use crate::data::CLASSES;
use crate::random::{Use, stream};

/// Coupling layers between encoders and heads.
pub(crate) const LAYERS: usize = 2;

/// The three runs of the ablation. They start from the same parameters and see the same batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Coupling {
    /// The layers keep Θ, bias and residual, but each expert stays alone.
    None,
    /// Hyperedge weights keep their initial values.
    Frozen,
    /// Hyperedge weights are trained.
    Learned,
}

impl Coupling {
    pub(crate) const ALL: [Self; 3] = [Self::None, Self::Frozen, Self::Learned];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "no coupling",
            Self::Frozen => "frozen weights",
            Self::Learned => "learned weights",
        }
    }
}

/// All parameters by name, in a fixed order.
pub(crate) struct Parameters(Vec<(String, Var)>);

impl Parameters {
    /// Initial values, drawn from the seed: candle cannot seed its own generator on the CPU.
    pub(crate) fn new(settings: &Settings, hyperedges: usize) -> Result<Self> {
        let mut rng = stream(settings.seed, Use::Parameters);
        let (experts, pixels, width) = (settings.cut.experts, settings.cut.pixels(), settings.width);
        let mut all = Vec::new();
        let mut add = |name: &str, shape: &[usize], init: Init| -> Result<()> {
            let values = init.draw(shape.iter().product(), &mut rng);
            all.push((name.to_owned(), Var::from_vec(values, shape, &Device::Cpu)?));
            Ok(())
        };
        // Variances that keep the size of the features: 2 / inputs before a rectifier, 1 / inputs before the
        // softmax.
        add("encoder.weight", &[experts, pixels, width], Init::Normal((2.0 / pixels as f64).sqrt()))?;
        add("encoder.bias", &[experts, 1, width], Init::Constant(0.0))?;
        for layer in 0..LAYERS {
            let name = |parameter| format!("{}.{parameter}", coupling_name(layer));
            add(&name("lin.weight"), &[width, width], Init::Normal((2.0 / width as f64).sqrt()))?;
            add(&name("bias"), &[width], Init::Constant(0.0))?;
            let weights = match settings.weights {
                WeightKind::Softplus => Init::Constant(1f64.exp_m1().ln()), // softplus makes it 1
                WeightKind::Raw => Init::Normal(1.0),
            };
            add(&name("hyperedge_weight"), &[hyperedges], weights)?;
        }
        add("head.weight", &[experts, width, CLASSES], Init::Normal((1.0 / width as f64).sqrt()))?;
        add("head.bias", &[experts, 1, CLASSES], Init::Constant(0.0))?;
        Ok(Self(all))
    }

    /// All parameters in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.0.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// Hyperedge weights, or everything else.
    pub(crate) fn select(&self, hyperedge_weights: bool) -> Vec<Var> {
        let chosen = self.iter().filter(|(name, _)| is_hyperedge_weight(name) == hyperedge_weights);
        chosen.map(|(_, var)| var.clone()).collect()
    }

    /// The parameters as a layer's constructor asks for them; frozen hyperedge weights get no gradient.
    fn var_builder(&self, coupling: Coupling) -> VarBuilder<'static> {
        let tensor = |name: &str, var: &Var| match coupling {
            Coupling::Learned => var.as_tensor().clone(),
            _ if is_hyperedge_weight(name) => var.as_detached_tensor(),
            _ => var.as_tensor().clone(),
        };
        let tensors: HashMap<_, _> =
            self.iter().map(|(name, var)| (name.to_owned(), tensor(name, var))).collect();
        VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
    }
}

fn coupling_name(layer: usize) -> String {
    format!("coupling.{layer}")
}

fn is_hyperedge_weight(name: &str) -> bool {
    name.ends_with("hyperedge_weight")
}

enum Init {
    Constant(f64),
    Normal(f64),
}

impl Init {
    fn draw(&self, count: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
        match *self {
            Self::Constant(value) => vec![value as f32; count],
            Self::Normal(deviation) => {
                let normal = StandardNormal.sample_iter(rng).take(count);
                normal.map(|value: f64| (value * deviation) as f32).collect()
            }
        }
    }
}

/// A coupling layer, or what takes its place without coupling.
enum Layer {
    Coupled(HypergraphConv),
    Alone(Linear),
}

impl Module for Layer {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Coupled(conv) => conv.forward(x),
            // Expert-major rows are contiguous; candle would multiply a strided input image by image.
            Self::Alone(linear) => linear.forward(&x.transpose(0, 1)?.contiguous()?)?.transpose(0, 1),
        }
    }
}

/// The network.
pub(crate) struct Model {
    encoder: (Tensor, Tensor),
    layers: Vec<Layer>,
    head: (Tensor, Tensor),
    execution: Execution,
}

impl Model {
    pub(crate) fn new(
        settings: &Settings,
        incidence: &Incidence,
        parameters: &Parameters,
        coupling: Coupling,
        execution: Execution,
    ) -> Result<Self> {
        let vb = parameters.var_builder(coupling);
        let (experts, pixels, width) = (settings.cut.experts, settings.cut.pixels(), settings.width);
        // Every image is a copy of the same hypergraph; how many there are is read from the features.
        let batch = Batch::replicate(incidence.clone());
        let weights = match settings.weights {
            WeightKind::Softplus => WeightParametrization::Softplus,
            WeightKind::Raw => WeightParametrization::Raw,
        };
        let config = HypergraphConvConfig::default().weights(weights);
        let layer = |layer| -> Result<Layer> {
            let vb = vb.pp(coupling_name(layer));
            Ok(match coupling {
                Coupling::None => Layer::Alone(Linear::new(
                    vb.get((width, width), "lin.weight")?,
                    Some(vb.get(width, "bias")?),
                )),
                _ => Layer::Coupled(hypergraph_conv(&batch, width, width, config, vb)?),
            })
        };
        Ok(Self {
            encoder: (
                vb.get((experts, pixels, width), "encoder.weight")?,
                vb.get((experts, 1, width), "encoder.bias")?,
            ),
            layers: (0..LAYERS).map(layer).collect::<Result<_>>()?,
            head: (
                vb.get((experts, width, CLASSES), "head.weight")?,
                vb.get((experts, 1, CLASSES), "head.bias")?,
            ),
            execution,
        })
    }

    /// The effective hyperedge weights of each coupling layer; none without coupling.
    pub(crate) fn hyperedge_weights(&self) -> Result<Vec<Vec<f64>>> {
        self.of_each_conv(HypergraphConv::weights)
    }

    /// The degrees D_v of the experts in each coupling layer; none without coupling.
    pub(crate) fn degrees(&self) -> Result<Vec<Vec<f64>>> {
        self.of_each_conv(HypergraphConv::degrees)
    }

    fn of_each_conv(&self, get: fn(&HypergraphConv) -> candle_core::Result<Tensor>) -> Result<Vec<Vec<f64>>> {
        let convs = self.layers.iter().filter_map(|layer| match layer {
            Layer::Coupled(conv) => Some(conv),
            Layer::Alone(_) => None,
        });
        convs.map(|conv| Ok(get(conv)?.to_dtype(DType::F64)?.to_vec1()?)).collect()
    }

    /// Parts `[experts, images, pixels]` to logits `[experts, images, classes]`.
    pub(crate) fn forward(&self, parts: &Tensor) -> Result<Tensor> {
        let features = parts.matmul(&self.encoder.0)?.broadcast_add(&self.encoder.1)?.relu()?;
        let features = self.couple(&features.transpose(0, 1)?)?.transpose(0, 1)?;
        Ok(features.contiguous()?.matmul(&self.head.0)?.broadcast_add(&self.head.1)?)
    }

    /// The coupling layers alone: `[images, experts, width]` to the same shape.
    pub(crate) fn couple(&self, features: &Tensor) -> Result<Tensor> {
        let mut features = features.clone();
        for layer in &self.layers {
            let message = match self.execution {
                Execution::Batched => layer.forward(&features)?,
                Execution::Sequential => {
                    let images = 0..features.dim(0)?;
                    let each = images.map(|image| layer.forward(&features.narrow(0, image, 1)?));
                    Tensor::cat(&each.collect::<candle_core::Result<Vec<_>>>()?, 0)?
                }
            };
            features = (features + message.relu()?)?;
        }
        Ok(features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Digits;

    #[test]
    fn without_coupling_experts_are_alone_and_with_it_they_are_not() {
        let settings = Settings { noisy: 0, ..Settings::for_tests() };
        let incidence = Incidence::subsets(8, 2).unwrap();
        let parameters = Parameters::new(&settings, incidence.n_hyperedges()).unwrap();
        let parts = Digits::new(&settings).unwrap().test(0).unwrap().parts;
        let mut last_expert = vec![0f32; 8];
        last_expert[7] = 1.0;
        let changed =
            parts.broadcast_add(&Tensor::from_vec(last_expert, (8, 1, 1), &Device::Cpu).unwrap()).unwrap();
        for (coupling, alone) in [(Coupling::None, true), (Coupling::Learned, false)] {
            let model = Model::new(&settings, &incidence, &parameters, coupling, Execution::Batched).unwrap();
            let first = |parts| model.forward(parts).unwrap().get(0).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(first(&parts) == first(&changed), alone, "{}", coupling.name());
        }
    }
}
