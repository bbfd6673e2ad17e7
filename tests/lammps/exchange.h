// What plugin.cpp offers to the Python side of the plugin, see build_plugin.py.
#pragma once
#include <cstddef>
#include "mliap_data.h"

// Copies rows of `width` numbers from `source` to `target` for all atoms, and then either from every
// atom to its ghosts, or adds those of ghosts to their atom.
void exchange_rows(LAMMPS_NS::MLIAPData *data, size_t source, size_t target, int width, int single,
                   int reverse);
