"""The model, in the order of the data flow: attention, Stable Diffusion, backbone, detector."""
