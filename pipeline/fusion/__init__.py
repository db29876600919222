from pipeline.fusion.fuse import FUSERS, Fused, fuse, fuse_arrays
from pipeline.fusion.pack import Packed, pack
from pipeline.fusion.checks import Report
from pipeline.fusion.wbf import CONF_TYPES
