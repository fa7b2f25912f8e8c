"""Spack recipe of lamina. Put it into a repository of your own (packages/lamina/package.py) and build
a checkout with `spack dev-build lamina@main`: there are no released archives to fetch yet."""

from spack.package import *


class Lamina(CMakePackage):
    """Batch decoding of large language models with model-attention disaggregation, over MPI."""

    license("Apache-2.0")

    version("main")

    depends_on("c", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("pkgconfig", type="build")

    depends_on("mpi@3.1:")
    depends_on("hdf5@1.10:1.14")
    depends_on("jansson")
    depends_on("pcre2")
    depends_on("utf8proc")
    depends_on("xxhash")
    depends_on("cmocka", type="test")

    def cmake_args(self):
        return [
            self.define("BUILD_TESTING", self.run_tests),
            self.define("HDF5_PREFER_PARALLEL", self.spec.satisfies("^hdf5+mpi")),
        ]
