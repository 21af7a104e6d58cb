// Says which model statistics were made from. It is stored beside them, so that statistics of another model are
// refused.
//
// In an .npz: key "metal_marlin.model", u8 [n], the UTF-8 text of a JSON object with the fields below. The digest
// (core/digest.h) is over the float32 values of a few rows of the embedding and of the linears of the first, the middle
// and the last layer. So the same values in another container (safetensors, GGUF in F16) are the same model. Norms are
// left out, because GGUF stores those of some families shifted by one. What the config says of the forward pass is
// compared where the file has it, as float32, which is what GGUF stores.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "checkpoint/model_source.h"
#include "core/tensor.h"
#include "formats/npz.h"

namespace metal_marlin {

struct ModelIdentity {
  std::string name;  // of the model's folder or file; used in messages, not compared
  std::string family;
  int64_t hidden_size = 0;
  int64_t layers = 0;
  int64_t vocabulary = 0;
  std::string digest;
  // Of the config: numbers that change the inputs of the linears, by their names there. Files of earlier versions have
  // none.
  std::map<std::string, double> settings;

  // "SmolLM2 (llama, 30 layers, hidden 576, vocabulary 49152, digest 0123456789abcdef)".
  std::string text() const;
  bool same_model(const ModelIdentity& other) const;
};

// Files of version 0.2 and before hold a digest of 16 hexadecimal digits, of another function. kEarlier gives it, so
// that statistics of then can still be told from those of another model.
enum class DigestKind { kToday, kEarlier };
ModelIdentity identify_model(const ModelSource& source, DigestKind kind = DigestKind::kToday);

OwnedTensor identity_array(const ModelIdentity& identity);
// Whether calibrate_model wrote the file: it holds an identity.
bool is_statistics(const NpzFile& file);
// Accepts a file without an identity, as other tools write it. Throws FormatError when the identity is broken, or when
// it is that of another model than `source`; the message names both.
void check_identity(const NpzFile& file, const ModelSource& source);

}  // namespace metal_marlin
