"""What can go wrong, one class each.

DHVTError
├── ConfigError       a setting, option or recipe field that cannot be
├── DataError         a data set or image that cannot be read
│   └── ImageError    one image that cannot be decoded
├── TrainError        training cannot go on: a loss that is not finite, a full disk
├── CheckpointError   a checkpoint that is missing, broken or of another model
├── ArtifactError     a model folder that is missing, incomplete or was changed
├── StoreError        a model that BentoML's model store does not take
├── EngineError       a runtime that cannot run the model here
│   ├── EngineUnavailable  … because the machine or the model lacks what it needs, as most do
│   └── SelfTestError      … because it computes something else than was exported
├── ProbeStopped      the process that tests an engine was told to stop
└── ExportError       a checkpoint that could not become an artifact
    └── ParityError   … because the outputs disagree
"""


class DHVTError(Exception):
    """Base of every error that this project raises on purpose."""


class ConfigError(DHVTError, ValueError):
    """A setting, option or recipe field has a value that cannot be used."""


class DataError(DHVTError):
    """A data set is missing, empty, or has an unreadable entry."""


class ImageError(DataError):
    """Bytes that are not an image we decode: unknown format, truncated, or too large."""


class TrainError(DHVTError):
    """Training cannot go on; the last checkpoint is as it was."""


class CheckpointError(DHVTError):
    """A checkpoint is missing, damaged, or does not fit the model."""


class ArtifactError(DHVTError):
    """A model folder is missing, incomplete, or its files are not those recorded."""


class StoreError(DHVTError):
    """BentoML's model store does not take a model: another has its tag, or BentoML is missing."""


class EngineError(DHVTError):
    """No runtime on this machine can run the model, or one failed its self-test."""


class EngineUnavailable(EngineError):
    """What the engine needs is not there: its package, a GPU that it is for, an engine file. No fault unless it was asked
    for by name."""


class ProbeStopped(DHVTError):
    """The process that tested an engine was told to stop. That says nothing of the engine, and no other is to be tried."""


class SelfTestError(EngineError):
    """A runtime gives other logits here than the exported model did."""


class ExportError(DHVTError):
    """A checkpoint could not be exported."""


class ParityError(ExportError):
    """The exported model's outputs differ from PyTorch's by more than the tolerance."""
