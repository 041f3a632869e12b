package com.google.ai.edge.litert

import android.content.res.AssetManager

enum class Accelerator { CPU, GPU, NPU }

class TensorBuffer : AutoCloseable {
    fun writeFloat(data: FloatArray) { TODO("$data") }
    fun readFloat(): FloatArray = TODO()
    override fun close() = TODO()
}

class CompiledModel : AutoCloseable {
    class Options(vararg accelerators: Accelerator) { val all = accelerators }

    fun createInputBuffers(): List<TensorBuffer> = TODO()
    fun createOutputBuffers(): List<TensorBuffer> = TODO()
    fun run(inputs: List<TensorBuffer>, outputs: List<TensorBuffer>) { TODO("$inputs $outputs") }
    override fun close() = TODO()

    companion object {
        @JvmStatic
        fun create(assets: AssetManager, name: String, options: Options): CompiledModel = TODO("$assets $name $options")
    }
}
