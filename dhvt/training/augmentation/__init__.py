"""Augmentation of whole batches of uint8 images, on the device that trains.

Each image's parameters are drawn in NumPy on the CPU (:mod:`~dhvt.training.augmentation.draws`), so that it is known without
waiting for the device which operation takes which images; the pixels are changed by tensor code that works on every device.
"""
