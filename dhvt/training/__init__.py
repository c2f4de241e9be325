"""From labelled images to a checkpoint.

The files that one training step passes, in order:

1. ``cli/train.py``      the options, which are the fields of ``config.py`` (``fields.py``, ``run_file.py`` for TOML)
2. ``trainer.py``        ``train`` opens the run (``run.py``) and loops over epochs (``Trainer``)
3. ``sampler.py``        which images are in the batch
4. ``dataset.py``        their pixels: kept on the device where they fit (``storage.py``), else decoded by loader processes
5. ``step.py``           ``TrainState.train_batch``: augmentation of the whole batch on the device (``transforms.py`` and
   ``augmentation/``), forward, backward, optimizer (``optim.py``, ``muon.py``), moving average of the weights; ``losses.py``
6. ``checkpoints.py``    what is saved when, and which epoch is the best; ``resume.py`` goes on from it
7. ``validation.py``     accuracy on held-out images; then ``metrics_log.py``, ``progress.py``, ``tracking.py``, ``report.py``

Beside these: ``automatic.py`` and ``choose.py`` (image size, patch size and epochs from the data), ``initialize.py``
(starting weights), ``distributed.py`` (device, precision, processes), ``nodes.py`` (several machines), ``averaging.py``
(``dhvt average``), ``seeds.py`` (each draw is a function of seed and step), ``signals.py`` (Ctrl-C), ``allocator.py``
(restarts the process with jemalloc preloaded), ``broken_images.py``, ``batchnorm.py``, ``class_weights.py``.
"""
