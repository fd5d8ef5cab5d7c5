"""Adaptation as methods of `rltool train`."""

from __future__ import annotations

from rltool.adaptation import config as configs
from rltool.adaptation.presets import PRESETS
from rltool.training.methods import Method


def make_method(name: str, config: type[configs.AdaptationConfig], learner: str) -> Method:
    """A method that trains a classifier for a target domain."""
    return Method(
        config,
        f"rltool.adaptation.{learner}",
        data="SOURCE:TARGET",
        presets=PRESETS.get(name, {}),
        run=configs.AdaptationRunConfig,
        training_metric="train/accuracy",
        evaluation_metric="target_accuracy",
    )


source_only = make_method("source-only", configs.AdaptationConfig, "learner:SourceOnly")
target_oracle = make_method("target-oracle", configs.AdaptationConfig, "learner:TargetOracle")
dann = make_method("dann", configs.DANNConfig, "adversarial:DANN")
cdan = make_method("cdan", configs.CDANConfig, "adversarial:CDAN")
adda = make_method("adda", configs.ADDAConfig, "adversarial:ADDA")
coral = make_method("coral", configs.AlignmentConfig, "alignment:CORAL")
mmd = make_method("mmd", configs.AlignmentConfig, "alignment:MMD")
mcd = make_method("mcd", configs.MCDConfig, "discrepancy:MCD")
entropy = make_method("entropy", configs.SelfTrainingConfig, "self_training:SelfTraining")
dirt_t = make_method("dirt-t", configs.DIRTTConfig, "self_training:DIRTT")
universal = make_method("universal", configs.UniversalConfig, "universal:Universal")
adabn = make_method("adabn", configs.BatchNormConfig, "batch_norm:AdaBN")
tent = make_method("tent", configs.TentConfig, "batch_norm:Tent")
fine_tune = make_method("fine-tune", configs.FineTuneConfig, "fine_tuning:FineTune")
erm = make_method("erm", configs.GeneralizationConfig, "generalization:ERM")
irm = make_method("irm", configs.GeneralizationConfig, "generalization:IRM")
vrex = make_method("vrex", configs.GeneralizationConfig, "generalization:VREx")
group_dro = make_method("group-dro", configs.GeneralizationConfig, "generalization:GroupDRO")
mixstyle = make_method("mixstyle", configs.GeneralizationConfig, "generalization:MixStyle")
