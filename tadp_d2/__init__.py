"""Text-aligned diffusion backbones for Detectron2 (TADP).

The parts are imported by name, so that text and personalization work without Detectron2;
`tadp_d2.config.add_tadp_config` is where a Detectron2 program begins.
"""

__version__ = "0.1.0"
