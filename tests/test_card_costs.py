"""What the shipped sheets cost on a GPU that is not here, and that what is known of the models is so."""

import importlib.util
import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from command_line import call
from torch.utils.flop_counter import FlopCounterMode

from pareto_unlearn.catalogue.costs import COSTS
from pareto_unlearn.config import ModelSection, SamplingSection, TaskSection, load_config
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models import Setting, family_of
from pareto_unlearn.sweep.card_costs import count_planned, predict_on_card

FOLDER = Path(__file__).parent.parent
_SPEC = importlib.util.spec_from_file_location("make_costs", FOLDER / "docs" / "make_costs.py")
make_costs = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make_costs)


@pytest.mark.parametrize("path", make_costs.SHEETS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_the_table_in_the_head_of_a_sheet_is_what_the_dry_run_says(path):
    assert path.read_text() == make_costs.with_costs(path), "run python docs/make_costs.py"


def test_a_quick_sheet_takes_at_most_an_hour_and_asks_the_same_of_the_same_model():
    for path in make_costs.SHEETS[3:]:
        quick, whole = load_config(path), load_config(FOLDER / "sweeps" / path.name)
        assert predict_on_card(quick, "h100").unit_hours <= 1.0
        assert (quick.model, quick.task) == (whole.model, whole.task)
        assert quick.objective.model_dump(exclude={"noise_images"}) == whole.objective.model_dump(
            exclude={"noise_images"}
        )


def test_the_baselines_of_the_sheets_take_the_published_updates():
    epochs = {"imagenet_mae": 5, "imagenet_vqgan": 5, "places_diffusion": 3}
    for name, count in epochs.items():
        config = load_config(FOLDER / "sweeps" / f"{name}.yaml")
        images = count_planned(config)
        both = images["forget", "train"] + images["retain", "train"]
        assert 2 * config.solver.batch == 64
        assert config.solver.steps == -(-count * both // 64)
        # The path and its scan take what the highest boundary and three epsilons take one by one.
        path = config.solver.path
        assert 0 <= 4 * config.solver.steps - path.steps - len(path.scan) * path.scan_steps < 4


def test_the_command_needs_neither_weights_nor_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("sweep", FOLDER / "sweeps" / "imagenet_mae.yaml", "--dry-run", "--card", "h100", "--json")
    found = json.loads(done.stdout)
    assert sum(found["stage_hours"].values()) == pytest.approx(found["unit_hours"])
    assert found["memory"]["weights"] == 4 * COSTS["mae", "vit_base"].parameters
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sheet", "override", "words"),
    [
        ("imagenet_mae", "data.train_per_class=null", "numbers of classes and of images per class"),
        ("imagenet_mae", "model.variant=vit_huge", "costs are known"),
        ("places_diffusion", "solver.batch=4096", "H100 has 80 GB"),
    ],
)
def test_what_cannot_be_computed_is_refused(sheet, override, words):
    config = load_config(FOLDER / "sweeps" / f"{sheet}.yaml", [override])
    with pytest.raises(ConfigError, match=re.escape(words)):
        predict_on_card(config, "h100")


def counted(family: str, variant: str):
    """The model on no device, one image as its input, and a counter of what a function of both takes."""
    model_section = ModelSection(family=family, variant=variant, checkpoint="unread.pth")
    task = TaskSection(patches=8) if family != "palette" else TaskSection(size=0.5)
    setting = Setting(model=model_section, task=task, sampling=SamplingSection())
    model = family_of(family).build(setting).to("meta").eval()
    side = COSTS[family, variant].side
    images = torch.empty(1, 3, side, side, device="meta")
    return model, images


@pytest.mark.nightly
@pytest.mark.parametrize(("family", "variant"), COSTS)
def test_what_is_known_of_a_model_is_counted_on_it(family, variant, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta tensors
    cost, (model, images) = COSTS[family, variant], counted(family, variant)
    assert cost.parameters == sum(tensor.numel() for tensor in model.state_dict().values())
    draws = [torch.Generator().manual_seed(0)]
    with FlopCounterMode(display=False) as counter:
        inputs = model.prepare(images, draws)
    assert counter.get_total_flops() == pytest.approx(cost.prepare, rel=0.01)
    every = {name: model.trainable(name) for name in ("encoder", "output")}
    for name, function in (("encoder", model.encode), ("output", model)):
        space, trained = cost.space(name), every[name]
        assert space.trained == sum(parameter.numel() for parameter in trained)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        kept: dict[int, torch.UntypedStorage] = {}

        def keep(tensor, own=own, kept=kept):
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with FlopCounterMode(display=False) as counter, hooks:
            outputs = function(inputs)
        assert outputs[0].numel() == space.values
        assert counter.get_total_flops() == pytest.approx(space.flops, rel=0.01)
        assert sum(storage.nbytes() for storage in kept.values()) == pytest.approx(space.saved, rel=0.05)
