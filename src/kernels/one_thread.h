// Calls of OpenBLAS and oneDNN stay on the calling thread.
#pragma once

namespace metal_marlin {

// Both libraries ask OpenMP how many threads they may use. While the object lives the answer is one in this thread, so
// that they start no team of their own, and so that their partition of the work, and with it the bytes, stays the
// same. The number that the caller of this library has set comes back afterwards. Put one around every such call.
class OneThread {
 public:
  OneThread() noexcept;
  ~OneThread();
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

// As OneThread; the first one in the process also lets OpenBLAS choose its kernels again where it chose badly
// (blas_kernels.h). Put one around every call of OpenBLAS.
class OneThreadBlas : public OneThread {
 public:
  OneThreadBlas() noexcept;
};

}  // namespace metal_marlin
