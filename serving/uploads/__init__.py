"""Request bodies to the bytes of images: one image, forms with several, archives, JSON, tensors."""
