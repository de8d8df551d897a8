//! The digits, cut into one part for each expert.
//!
//! The images travel inside the program, so it runs from any directory. A noisy expert gets normal noise in
//! place of its part, drawn anew for every image it is shown.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use flate2::read::GzDecoder;
use rand::Rng;
use rand::seq::{SliceRandom, index};
use rand_distr::{Distribution, StandardNormal};

use crate::args::Settings;
use crate::random::{Use, stream};

/// Pixels along one side of an image.
const SIDE: usize = 8;
/// Pixels of an image.
pub(crate) const PIXELS: usize = SIDE * SIDE;
/// Digits to tell apart.
pub(crate) const CLASSES: usize = 10;
/// Images in the file.
const IMAGES: usize = 1797;
/// One image in five is kept for the test.
const TEST_IMAGES: usize = 360;
/// Images to train on.
pub(crate) const TRAINING_IMAGES: usize = IMAGES - TEST_IMAGES;
/// The brightest pixel value in the file.
const WHITE: f32 = 16.0;

static FILE: &[u8] = include_bytes!("data/digits.csv.gz");

/// A number of experts for which the image can be cut into equal rectangles.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) experts: usize,
    height: usize,
    width: usize,
    /// What one part is called, in the plural.
    pub(crate) name: &'static str,
}

/// All cuts on offer.
pub(crate) const CUTS: [Cut; 4] = [
    Cut { experts: 2, height: 4, width: 8, name: "halves" },
    Cut { experts: 4, height: 4, width: 4, name: "quadrants" },
    Cut { experts: 8, height: 1, width: 8, name: "rows" },
    Cut { experts: 16, height: 2, width: 2, name: "blocks" },
];

impl Cut {
    /// The cut for `experts`, if there is one.
    pub(crate) fn find(experts: usize) -> Option<&'static Self> {
        CUTS.iter().find(|cut| cut.experts == experts)
    }

    /// Pixels of one part.
    pub(crate) fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// The positions in the image of the pixels of each part.
    fn parts(&self) -> Vec<Vec<usize>> {
        let across = SIDE / self.width;
        let part = |expert: usize| {
            let (top, left) = (expert / across * self.height, expert % across * self.width);
            (0..self.pixels()).map(|i| (top + i / self.width) * SIDE + left + i % self.width).collect()
        };
        (0..self.experts).map(part).collect()
    }
}

/// Some images as the experts see them.
pub(crate) struct Batch {
    /// [experts, images, pixels of a part]
    pub(crate) parts: Tensor,
    /// The digit of each image.
    pub(crate) labels: Vec<u32>,
}

/// The data set, split and cut.
pub(crate) struct Digits {
    images: Vec<[f32; PIXELS]>,
    labels: Vec<u32>,
    training: Vec<usize>,
    test: Vec<usize>,
    parts: Vec<Vec<usize>>,
    noisy: BTreeSet<usize>,
    noise_level: f32,
    batch_size: usize,
    seed: u64,
}

impl Digits {
    /// Reads the images, chooses the test images and the noisy experts.
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let mut images = Vec::with_capacity(IMAGES);
        let mut labels = Vec::with_capacity(IMAGES);
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(GzDecoder::new(FILE));
        for (line, record) in reader.deserialize().enumerate() {
            let values: Vec<u8> = record.with_context(|| format!("image {line}"))?;
            let (&label, pixels) = values.split_last().context("an empty line")?;
            let pixels: [u8; PIXELS] = pixels.try_into().with_context(|| format!("image {line}"))?;
            images.push(pixels.map(|pixel| f32::from(pixel) / WHITE));
            labels.push(u32::from(label));
        }
        ensure!(images.len() == IMAGES, "{} images in place of {IMAGES}", images.len());

        let mut order: Vec<usize> = (0..IMAGES).collect();
        order.shuffle(&mut stream(settings.seed, Use::Split));
        let test = order.split_off(TRAINING_IMAGES);
        let mut rng = stream(settings.seed, Use::NoisyExperts);
        let noisy = index::sample(&mut rng, settings.cut.experts, settings.noisy).into_iter().collect();
        Ok(Self {
            images,
            labels,
            training: order,
            test,
            parts: settings.cut.parts(),
            noisy,
            noise_level: settings.noise_level as f32,
            batch_size: settings.batch_size,
            seed: settings.seed,
        })
    }

    /// Images to test on.
    pub(crate) fn test_images(&self) -> usize {
        self.test.len()
    }

    /// The experts that see noise.
    pub(crate) fn noisy(&self) -> &BTreeSet<usize> {
        &self.noisy
    }

    /// The experts that see their part of the image.
    pub(crate) fn good(&self) -> Vec<usize> {
        (0..self.parts.len()).filter(|expert| !self.noisy.contains(expert)).collect()
    }

    /// Batches of an epoch; the last one may be smaller.
    pub(crate) fn steps_per_epoch(&self) -> usize {
        self.training.len().div_ceil(self.batch_size)
    }

    /// The training images of one epoch in that epoch's order.
    pub(crate) fn epoch(&self, epoch: usize) -> impl Iterator<Item = Result<Batch>> {
        let mut rng = stream(self.seed, Use::Training { epoch });
        let mut order = self.training.clone();
        order.shuffle(&mut rng);
        let mut start = 0;
        std::iter::from_fn(move || {
            let chosen = &order[start..order.len().min(start + self.batch_size)];
            start += chosen.len();
            (!chosen.is_empty()).then(|| self.batch(chosen, &mut rng))
        })
    }

    /// All test images, with that epoch's noise.
    pub(crate) fn test(&self, epoch: usize) -> Result<Batch> {
        self.batch(&self.test, &mut stream(self.seed, Use::Test { epoch }))
    }

    fn batch(&self, chosen: &[usize], rng: &mut impl Rng) -> Result<Batch> {
        let pixels = self.parts[0].len();
        let mut values = Vec::with_capacity(chosen.len() * PIXELS);
        for (expert, part) in self.parts.iter().enumerate() {
            for &image in chosen {
                if self.noisy.contains(&expert) {
                    let noise = StandardNormal.sample_iter(&mut *rng).take(pixels);
                    values.extend(noise.map(|value: f32| value * self.noise_level));
                } else {
                    values.extend(part.iter().map(|&pixel| self.images[image][pixel]));
                }
            }
        }
        let shape = (self.parts.len(), chosen.len(), pixels);
        Ok(Batch {
            parts: Tensor::from_vec(values, shape, &Device::Cpu)?,
            labels: chosen.iter().map(|&image| self.labels[image]).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_every_cut_partition_the_image() {
        for cut in &CUTS {
            let parts = cut.parts();
            assert_eq!(parts.len(), cut.experts);
            assert!(parts.iter().all(|part| part.len() == cut.pixels()));
            let mut pixels = parts.concat();
            pixels.sort_unstable();
            assert_eq!(pixels, (0..PIXELS).collect::<Vec<_>>(), "{}", cut.name);
        }
    }

    #[test]
    fn a_quadrant_is_a_square() {
        let quadrants = Cut::find(4).unwrap().parts();
        assert_eq!(quadrants[3], [36, 37, 38, 39, 44, 45, 46, 47, 52, 53, 54, 55, 60, 61, 62, 63]);
    }

    #[test]
    fn training_and_test_share_no_image_and_each_epoch_shows_all() {
        let digits = Digits::new(&Settings::for_tests()).unwrap();
        let all: BTreeSet<usize> = digits.training.iter().chain(&digits.test).copied().collect();
        assert_eq!(all.len(), IMAGES);
        let shown: usize = digits.epoch(0).map(|batch| batch.unwrap().labels.len()).sum();
        assert_eq!(shown, TRAINING_IMAGES);
        assert_eq!(digits.epoch(0).count(), digits.steps_per_epoch());
    }

    #[test]
    fn noisy_experts_see_fresh_noise_and_the_others_their_part() {
        let settings = Settings { noisy: 3, ..Settings::for_tests() };
        let digits = Digits::new(&settings).unwrap();
        assert_eq!(digits.noisy().len(), 3);
        let seen = |epoch| digits.test(epoch).unwrap().parts.to_vec3::<f32>().unwrap();
        let (one, two) = (seen(1), seen(2));
        for expert in 0..settings.cut.experts {
            assert_eq!(one[expert] != two[expert], digits.noisy().contains(&expert));
        }
        let image = digits.images[digits.test[0]];
        let good = digits.good()[0];
        assert_eq!(one[good][0], image[good * SIDE..][..SIDE]);
    }
}
