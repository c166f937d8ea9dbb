"""Weights of 8 and 4 bits for a CPU, in PyTorch: a quantiser that `from_pretrained` knows."""

from encdec_slm.quantization.quantizer import CpuQuantizationConfig, CpuQuantizer, quantize_, read_single_rows_


__all__ = ["CpuQuantizationConfig", "CpuQuantizer", "quantize_", "read_single_rows_"]
