"""Vision-Zero (arXiv:2509.25541): players describe a picture, one of them, the spy, another one."""
