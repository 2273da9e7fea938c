"""The sets of labelled photographs that the photographs model can be trained on, and what they show."""

from __future__ import annotations

from dataclasses import dataclass

from smoothgate.bundled import FASHION_NOUNS

#: Number of classes of each set.
CLASSES = 10


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """What the pictures of a set show.

    Attributes:
        name: of the set.
        labels: the classes as the set's own files name them.
        nouns: the classes with their article, as answers name them.
        kinds: the kind of each class, with its article.
        kind_phrasings: ways to ask for the kind.
        thing: what a picture shows, whatever it is, and in the plural.
    """

    name: str
    labels: tuple[str, ...]
    nouns: tuple[str, ...]
    kinds: tuple[str, ...]
    kind_phrasings: tuple[str, ...]
    thing: str
    things: str

    def kind(self, noun: str) -> str:
        """The kind of a class."""
        return self.kinds[self.nouns.index(noun)]


#: Krizhevsky 2009: 50,000 + 10,000 colour photographs of 32 x 32.
CIFAR10 = PhotoSet(
    name="CIFAR-10",
    labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    nouns=(
        "an airplane",
        "an automobile",
        "a bird",
        "a cat",
        "a deer",
        "a dog",
        "a frog",
        "a horse",
        "a ship",
        "a truck",
    ),
    kinds=("a vehicle",) * 2 + ("an animal",) * 6 + ("a vehicle",) * 2,
    kind_phrasings=(
        "Is it an animal or a vehicle?",
        "Is this an animal or a vehicle?",
        "Animal or vehicle?",
        "Does the picture show an animal or a vehicle?",
        "Is a vehicle or an animal shown?",
    ),
    thing="an animal or a vehicle",
    things="animals and vehicles",
)

#: Xiao et al. 2017: 60,000 + 10,000 grey photographs of a shop's products, 28 x 28.
FASHION_MNIST = PhotoSet(
    name="Fashion-MNIST",
    labels=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    nouns=FASHION_NOUNS,
    kinds=(
        *("a garment",) * 5,
        "footwear",
        "a garment",
        "footwear",
        "an accessory",
        "footwear",
    ),
    kind_phrasings=(
        "Is it a garment, footwear or an accessory?",
        "Is this a garment, footwear or an accessory?",
        "Garment, footwear or accessory?",
        "Does the picture show a garment, footwear or an accessory?",
        "Is footwear, a garment or an accessory shown?",
    ),
    thing="a piece of clothing",
    things="clothes, shoes and bags",
)
