// LAMMPS's pair_style mliap as a plugin named mliap/py. Compiled with -DEXCHANGE it also has what
// pair_style mliap/kk offers to Python: the exchange of rows between processes, on the host.
#include <cstring>
#include <vector>

#include "atom.h"
#include "comm.h"
#include "exchange.h"
#include "lammpsplugin.h"
#include "pair_mliap.h"
#include "version.h"

using namespace LAMMPS_NS;

class PairExchange : public PairMLIAP {
 public:
  explicit PairExchange(LAMMPS *lmp) : PairMLIAP(lmp) {
    comm_forward = comm_reverse = WIDEST;  // LAMMPS sizes its buffers by these when a run starts
  }

  void exchange(const void *source, void *target, int width, bool single, bool reverse) {
    rows.resize((size_t) (atom->nlocal + atom->nghost) * width);
    if (single)
      rows.assign((const float *) source, (const float *) source + rows.size());
    else
      rows.assign((const double *) source, (const double *) source + rows.size());
    comm_forward = comm_reverse = width;
    if (reverse) comm->reverse_comm(this);
    else comm->forward_comm(this);
    comm_forward = comm_reverse = WIDEST;
    if (single) for (size_t k = 0; k < rows.size(); k++) ((float *) target)[k] = (float) rows[k];
    else memcpy(target, rows.data(), rows.size() * sizeof(double));
  }

  int pack_forward_comm(int n, int *list, double *buffer, int, int *) override {
    const int width = comm_forward;
    for (int i = 0; i < n; i++)
      memcpy(buffer + (size_t) i * width, &rows[(size_t) list[i] * width], width * sizeof(double));
    return n * width;
  }
  void unpack_forward_comm(int n, int first, double *buffer) override {
    const size_t width = comm_forward;
    memcpy(rows.data() + first * width, buffer, n * width * sizeof(double));
  }
  int pack_reverse_comm(int n, int first, double *buffer) override {
    const size_t width = comm_reverse;
    memcpy(buffer, rows.data() + first * width, n * width * sizeof(double));
    return n * (int) width;
  }
  void unpack_reverse_comm(int n, int *list, double *buffer) override {
    const int width = comm_reverse;
    for (int i = 0; i < n; i++)
      for (int j = 0; j < width; j++)
        rows[(size_t) list[i] * width + j] += buffer[(size_t) i * width + j];
  }

 private:
  static constexpr int WIDEST = 2048;
  std::vector<double> rows;
};

void exchange_rows(MLIAPData *data, size_t source, size_t target, int width, int single,
                   int reverse) {
  auto pair = (PairExchange *) data->pairmliap;
  pair->exchange((const void *) source, (void *) target, width, single, reverse);
}

static Pair *create(LAMMPS *lmp) { return new PairExchange(lmp); }

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle,
                                                                         void *regfunc) {
  lammpsplugin_t plugin;
  plugin.version = LAMMPS_VERSION;
  plugin.style = "pair";
  plugin.name = "mliap/py";
  plugin.info = "pair_style mliap with unified Python models";
  plugin.author = "LAMMPS";
  plugin.creator.v1 = (lammpsplugin_factory1 *) &create;
  plugin.handle = handle;
  ((lammpsplugin_regfunc) regfunc)(&plugin, lmp);
}
