"""Trainers that draw sequences: torchtitan, nanotron, Lingua, Levanter, litgpt, and MosaicML's Streaming.

All but Streaming draw packed sequences of one length, so that a weight is a share of tokens. Streaming draws samples,
whatever they are.
"""

from __future__ import annotations

from mixray.export.trainer import Sheet, Trainer, python_list, yaml_text


def _torchtitan(sheet: Sheet) -> str:
    sources = python_list(
        [
            f"HFDataSource(dataset={line.name!r}, dataset_path={line.path!r}, weight={line.number!r})"
            for line in sheet.lines
        ],
        indent=8,
    )
    return (
        "from torchtitan.hf_datasets.text_datasets import HFDataSource, InterleavedHuggingFaceTextDataLoader\n\n"
        "# Every name of a data set is a key of torchtitan.hf_datasets.text_datasets.DATASETS.\n"
        f"dataloader = InterleavedHuggingFaceTextDataLoader.Config(\n    sources={sources},\n)\n"
    )


def _torchtitan_grain(sheet: Sheet) -> str:
    weighted = [f"WeightedDataset(dataset=packed[{line.path!r}], weight={line.number!r})" for line in sheet.lines]
    return (
        "from torchtitan.components.data import DatasetMixConfig, WeightedDataset\n\n"
        "# packed: name -> the configuration of a data set of packed sequences; mixed before packing, the weights\n"
        "# would count documents. The order of the sources decides their seeds.\n"
        f"mix = DatasetMixConfig(\n    datasets=tuple(\n        {python_list(weighted, indent=12)}\n    ),\n)\n"
    )


def _nanotron(sheet: Sheet) -> str:
    dataset = {"dataset_folder": sheet.paths, "dataset_weights": sheet.numbers}
    stage = {"name": "mixture", "start_training_step": 1, "data": {"dataset": dataset}}
    return yaml_text({"data_stages": [stage]})


def _lingua(sheet: Sheet) -> str:
    return yaml_text({"data": {"sources": {line.path: line.number for line in sheet.lines}}})


def _levanter(sheet: Sheet) -> str:
    return yaml_text({"data": {"train_weights": {line.path: line.number for line in sheet.lines}}})


def _litgpt(sheet: Sheet) -> str:
    return (
        "from litdata import CombinedStreamingDataset, StreamingDataset, TokensLoader\n\n"
        "block_size = 2049  # the model's context length, and one token more\n"
        f"paths = {python_list([repr(path) for path in sheet.paths])}\n"
        f"weights = {python_list([repr(number) for number in sheet.numbers])}\n"
        "dataset = CombinedStreamingDataset(\n"
        "    datasets=[\n"
        "        StreamingDataset(\n"
        "            input_dir=path, item_loader=TokensLoader(block_size=block_size), shuffle=True, drop_last=True\n"
        "        )\n"
        "        for path in paths\n"
        "    ],\n"
        "    seed=42,\n"
        "    weights=weights,\n"
        "    iterate_over_all=False,\n"
        ")\n"
    )


def _stream_arguments(sheet: Sheet) -> dict[str, dict[str, object]]:
    """Return source -> the arguments of its ``streaming.Stream``."""
    return {
        line.name: {"remote" if "://" in line.path else "local": line.path, "proportion": line.number}
        for line in sheet.lines
    }


def _streaming(sheet: Sheet) -> str:
    streams = [
        f"Stream({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        for arguments in _stream_arguments(sheet).values()
    ]
    return (
        "from streaming import Stream, StreamingDataset\n\n"
        f"streams = {python_list(streams)}\n"
        "dataset = StreamingDataset(streams=streams, shuffle=True, batch_size=1)\n"
    )


def _llm_foundry(sheet: Sheet) -> str:
    return yaml_text({"train_loader": {"dataset": {"streams": _stream_arguments(sheet), "shuffle": True}}})


TRAINERS = {
    "torchtitan": Trainer("torchtitan, interleaved loader", "tokens", _torchtitan),
    "torchtitan-grain": Trainer(
        "torchtitan, mix of packed Grain data sets", "tokens", _torchtitan_grain, needs_paths=False
    ),
    "nanotron": Trainer("nanotron", "tokens", _nanotron),
    "lingua": Trainer("Lingua (sources are folders of data.root_dir)", "tokens", _lingua, needs_paths=False),
    "levanter": Trainer(
        "Levanter and Marin (names are those of data.components)", "tokens", _levanter, needs_paths=False
    ),
    "litgpt": Trainer("litgpt, LitData", "tokens", _litgpt),
    "streaming": Trainer("MosaicML Streaming", "examples", _streaming),
    "llm-foundry": Trainer("LLM Foundry", "examples", _llm_foundry),
}
