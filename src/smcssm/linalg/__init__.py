"""Small linear algebra over populations: the particle axis last, structural zeros and ones for nothing."""

from smcssm.linalg.entries import matvec as matvec
from smcssm.linalg.entries import rows as rows
from smcssm.linalg.entries import stack as stack
from smcssm.linalg.entries import vector as vector
from smcssm.linalg.entrywise import in_one_kernel as in_one_kernel
from smcssm.linalg.panels import triangularise as triangularise
