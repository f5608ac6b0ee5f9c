"""What must work after installing the wheel alone; run by `make isolate`."""

import numpy as np

from modicum.ewatermark import EWatermarkConfig, EWatermarkDetector, EWatermarkScheme

config = EWatermarkConfig(key=b"0123456789abcdef", vocab_size=64)
scheme = EWatermarkScheme(config)
tracker = scheme.new_tracker()
rng = np.random.default_rng(0)
logits = np.log(np.full((1, 64), 1 / 64))
for _ in range(60):
    law = np.exp(scheme.transform(logits, [tracker])[0])
    tracker.push(int(rng.choice(64, p=law / law.sum())))
assert EWatermarkDetector(config, alpha=1e-6)(tracker.tokens).prediction[0]
assert not EWatermarkDetector(config, alpha=1e-6)(list(range(60))).prediction[0]
print("ewatermark: marked text found, plain text not")
