"""GPTQModel: run_gptqmodel.py MODEL TEXT OUT SEQUENCES sym|asym"""

import os
import sys

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # with fewer, loading fails on machines of two cores

from gptqmodel import GPTQModel, QuantizeConfig  # noqa: E402
from sequences import sequences  # noqa: E402

model, text, out, count, scheme = sys.argv[1:]
data = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in sequences(model, text, int(count))]
quantizer = GPTQModel.load(model, QuantizeConfig(bits=4, group_size=64, sym=scheme == "sym"))
quantizer.quantize(data, batch_size=1)
quantizer.save(out)
