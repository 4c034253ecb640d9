"""Result files of runs as tables and as a page. Neither torch nor Detectron2 is needed here."""
