"""Attack a classifier that is no vision-language model, and evaluate it beside one.

    python examples/attack_any_classifier.py

A classifier is any function or module from pixels in [0, 1], batch x 3 x height x width, before normalisation, to
logits.
"""

import torch
from torch import nn
from torch.nn import functional as F

import radapt

torch.manual_seed(0)
train, test = radapt.load_dataset("colours", split="train", n=600), radapt.load_dataset("colours", n=20)
network = nn.Sequential(
    *(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()),
    *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(32, len(train.classes))),
)
optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
for _ in range(100):
    rows = torch.randint(len(train), (64,))
    optimizer.zero_grad()
    F.cross_entropy(network(train.pixels(rows)), train.labels[rows]).backward()
    optimizer.step()
network.eval().requires_grad_(False)

# One call. AutoAttack, which is slower and stronger, is what it takes where no attack is named.
images = test.pixels(range(len(test)))
outcome = radapt.attack(network, images, test.labels, attack="apgd", eps=4 / 255, quiet=True)
clean = (network(images).argmax(1) == test.labels).float().mean()
print(f"clean {clean:.2f}, robust {outcome.robust_accuracy:.2f}")

# The same module as a candidate of an evaluation, with intervals, checks and a report. Its logits must be those of the
# classes of the dataset, in their order.
results = radapt.evaluate(
    {"network": network, "CLIP": "micro/clip"},
    data=test,
    attack="pgd",
    eps=4 / 255,
    source="self",
    results="attack_any_classifier.sqlite",
    batch_size=len(test),
)
for result in results:
    print(f"{result.setting.method}, {result.kind}: {result.percent:.0f} [{result.low:.0f}, {result.high:.0f}]")
