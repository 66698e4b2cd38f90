"""Lightning data modules: batches uint8 (n, h, w, c) of image collections, without labels."""

from osoa_pl.datamodules.arrays import Arrays
from osoa_pl.datamodules.base import ImageDataModule
from osoa_pl.datamodules.cifar10 import CIFAR10
from osoa_pl.datamodules.crops import ImageCrops, sample_crops
from osoa_pl.datamodules.folder import ImageFolder
from osoa_pl.datamodules.imagenet import ImageNet32, ImageNet64
from osoa_pl.datamodules.loader import ResumableLoader
from osoa_pl.datamodules.mnist import MNIST, FashionMNIST, binarise

__all__ = [
    "CIFAR10",
    "MNIST",
    "Arrays",
    "FashionMNIST",
    "ImageCrops",
    "ImageDataModule",
    "ImageFolder",
    "ImageNet32",
    "ImageNet64",
    "ResumableLoader",
    "binarise",
    "sample_crops",
]
